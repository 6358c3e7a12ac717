//! Plain text: a line a line, a blank one or a heading (`[Chorus]`) between sections, two or more blank ones between songs.

use super::{LONGEST_LINE, Lines, Piece, Sink, lines_of, trimmed, words_or_heading};
use crate::error::Result;

pub(super) fn read(lines: &mut Lines, sink: &mut Sink) -> Result<()> {
    let mut blank = 0;
    while let Some(text) = lines.next(LONGEST_LINE)? {
        for line in lines_of(&text) {
            let line = trimmed(line);
            if line.is_empty() {
                blank += 1;
                continue;
            }
            match std::mem::take(&mut blank) {
                0 => {}
                1 => sink(Piece::SectionEnd)?,
                _ => sink(Piece::SongEnd)?,
            }
            sink(words_or_heading(line))?;
        }
    }
    Ok(())
}
