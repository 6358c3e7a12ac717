// Random numbers as a function of where they are used: nothing is stored, and backward draws what forward drew.

// The permutation of PCG (O'Neill 2014, RXS M XS on 32 bits), as a hash.
fn pcg(value: u32) -> u32 {
    let state = value * 747796405u + 2891336453u;
    let word = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
    return (word >> 22u) ^ word;
}

// What the value at place `at` is multiplied with: 0, or 1 / (1 - p), where `threshold` is p times 2^32. `key` is the
// token's, `site` says which of the network's dropouts it is.
fn dropout(key: u32, site: u32, at: u32, threshold: u32, kept: f32) -> f32 {
    let drawn = pcg(pcg(pcg(key) + site) ^ (at * 0x9e3779b9u));
    return select(0.0, kept, drawn >= threshold);
}
