// Asks for all the lines of the cache at once which a round is about to read of B. A gather waits for its eight; the next one is so many
// instructions further on that a CPU does not look ahead to many others, and no more than two gathers' lines were on their way from memory
// at a time. So a word of each line is read first, by instructions one right behind the other.
//
// The kernel says COLUMNS of a lane and ROWS_OF_B of a round, how B is loaded says how many numbers a LINE holds, and reads `word_of_b`:
// one word of the line in which row k of a column begins.

// `first` is the workgroup's first column, `column` the lane's. What comes of it has to be used, or a compiler leaves it out.
fn touch(k: u32, first: u32, column: u32, lane: u32) -> u32 {
    var touched = 0u;
    if TRANS_B {
        if LINE == ROWS_OF_B || k % LINE == 0u {
            for (var j = 0u; j < COLUMNS; j++) {
                touched |= word_of_b(k, column + j);
            }
        }
    } else {
        for (var i = lane; i < ROWS_OF_B * COLUMNS / 2u; i += 8u) {
            touched |= word_of_b(k + i / (COLUMNS / 2u), first + i % (COLUMNS / 2u) * 16u);
        }
    }
    return touched;
}

// 0, which no compiler knows: k is far smaller.
fn nothing_of(touched: u32) -> u32 {
    return touched & (sizes.k >> 31u);
}
