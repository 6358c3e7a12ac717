// How threads of a GPU share the reading of tiles: four elements at a time, in pairs, so that rows, as stored, have to be of
// even length only: a vocabulary often is no multiple of four. The host says what a pair is in memory, Pair, and what two and
// four elements become, Two and Four.

@group(0) @binding(0) var<storage, read> a: array<Pair>;

// Where the i-th four elements of a tile lie that is stored by its rows, as (row, first of four in depth): two neighbouring
// threads read eight elements of a row, the next two of the next row.
fn by_rows(i: u32, rows: u32) -> vec2<u32> {
    return vec2<u32>(i / 2u % rows, (i / (2u * rows) * 2u + i % 2u) * 4u);
}

// The same of one that is stored by its depth, as (first of four rows, depth).
fn by_depth(i: u32, rows: u32) -> vec2<u32> {
    return vec2<u32>(i % (rows / 4u) * 4u, i / (rows / 4u));
}

// Four elements of a row of A as it is stored; zeros beyond its end.
fn four_of_a(line: u32, length: u32, at: u32) -> Four {
    let first = (line * length + at) / 2u;
    var further = Two();
    if at + 2u < length {
        further = Two(a[first + 1u]);
    }
    return Four(Two(a[first]), further);
}
