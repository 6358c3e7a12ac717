//! Songs and triplets to train embeddings from.

use std::fs;
use std::path::{Path, PathBuf};

/// Songs of three verses, each song with a word of its own, so that there is something to learn.
pub fn write_songs(folder: &Path, count: usize) -> PathBuf {
    let words = ["rain", "town", "river", "again", "you", "and"];
    let song = |i: usize| {
        let own = format!("{} {}", words[i % 6], words[(i / 6 + i + 1) % 6]);
        format!("the {own} in the town\n\nyou and {own}\nand again\n\n{own} the {own} and you\n")
    };
    let path = folder.join("songs.txt");
    fs::write(&path, (0..count).map(song).collect::<Vec<_>>().join("\n\n")).unwrap();
    path
}

/// Triplets that are given, as JSON Lines.
pub fn lines_of(count: usize) -> String {
    "{\"anchor\": \"you\", \"positive\": \"town\", \"negative\": \"rain\"}\n".repeat(count)
}
