//! Plain text: a line a line, a blank one between sections, two or more between songs.

use super::{LONGEST_LINE, Lines, Piece, Sink};
use crate::error::Result;

pub(super) fn read(lines: &mut Lines, sink: &mut Sink) -> Result<()> {
    let mut blank = 0;
    while let Some(text) = lines.next(LONGEST_LINE)? {
        for line in text.split('\r') {
            let line = line.trim();
            if line.is_empty() {
                blank += 1;
                continue;
            }
            match std::mem::take(&mut blank) {
                0 => {}
                1 => sink(Piece::SectionEnd)?,
                _ => sink(Piece::SongEnd)?,
            }
            sink(Piece::Line(line.to_owned()))?;
        }
    }
    Ok(())
}
