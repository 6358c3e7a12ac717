// How weights that pack.wgsl wrote are read, of BITS bits an element, 16 or 8. What includes this says which.

// Words that a row of so many elements takes: an even number.
fn words_of_a_row(elements: u32) -> u32 {
    let words = select((elements + 3u) / 4u, (elements + 1u) / 2u, BITS == 16u);
    return (words + 1u) / 2u * 2u;
}

// Which of a row's words holds element i.
fn word_of(i: u32) -> u32 {
    return select(i / 4u, i / 2u, BITS == 16u);
}

// Element i, from that word, before it is scaled.
fn unpacked(word: u32, i: u32) -> f32 {
    if BITS == 16u {
        return unpack2x16float(word)[i % 2u];
    }
    return f32(extractBits(bitcast<i32>(word), i % 4u * 8u, 8u));
}
