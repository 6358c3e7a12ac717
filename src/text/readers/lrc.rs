//! Timed lyrics: `[ti:A title]`, `[01:23.45] a line`, `[00:10][00:50] a line sung twice`, `<01:23.45>` before a word.

use super::{LONGEST_LINE, Lines, Piece, Sink};
use crate::error::Result;

/// Times of a line, and of those that go with it.
const MOST_TIMES: usize = 1000;
const MOST_REPEATS: usize = 50;

/// A file is a song. Tags and times are removed; lines that are sung several times come as often, in the order of their
/// times; a timed line without words, or a blank one, ends a section.
pub(super) fn read(lines: &mut Lines, sink: &mut Sink) -> Result<()> {
    // The time, and the words: none where a section ends.
    let mut sung: Vec<(u64, String)> = Vec::new();
    let mut several = false;
    // Times of the line before.
    let mut last = vec![0];
    while let Some(text) = lines.next(LONGEST_LINE)? {
        for line in text.split('\r') {
            let (mut times, tags, words) = parse(line);
            // No line is sung so often: a damaged one must not be made into a million.
            times.truncate(MOST_TIMES);
            if tags && times.is_empty() && words.is_empty() {
                continue;
            }
            several |= times.len() > 1;
            sung.extend(times.iter().map(|&time| (time, words.clone())));
            // What has none goes with the line before, as often as that is sung: a translation, or the end of a chorus.
            if times.is_empty() {
                sung.extend(last.iter().map(|&time| (time, words.clone())));
            } else {
                times.truncate(MOST_REPEATS);
                last = times;
            }
        }
    }
    if several {
        sung.sort_by_key(|(time, _)| *time);
    }
    for (_, words) in sung {
        sink(if words.is_empty() { Piece::SectionEnd } else { Piece::Line(words) })?;
    }
    Ok(())
}

/// The times (in milliseconds) and whether there are tags before the words, and the words.
fn parse(line: &str) -> (Vec<u64>, bool, String) {
    let (mut times, mut tags, mut rest) = (Vec::new(), false, line.trim());
    while let Some((inside, after)) = rest.strip_prefix('[').and_then(|open| open.split_once(']')) {
        match time(inside) {
            Some(time) => times.push(time),
            None if is_tag(inside) => tags = true,
            // Words in brackets: `[Chorus]`.
            None => break,
        }
        rest = after.trim_start();
    }
    // Times of single words.
    let mut words = String::with_capacity(rest.len());
    while let Some((before, after)) = rest.split_once('<') {
        words.push_str(before);
        match after.split_once('>') {
            Some((inside, after)) if time(inside).is_some() => rest = after,
            _ => {
                words.push('<');
                rest = after;
            }
        }
    }
    words.push_str(rest);
    (times, tags, words.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// `mm:ss`, `mm:ss.xx` or `mm:ss:xx`, in milliseconds.
fn time(text: &str) -> Option<u64> {
    let (minutes, rest) = text.trim().split_once(':')?;
    let (seconds, fraction) = rest.split_once(['.', ':']).unwrap_or((rest, "0"));
    let digits = |text: &str| !text.is_empty() && text.len() <= 6 && text.bytes().all(|byte| byte.is_ascii_digit());
    if ![minutes, seconds, fraction].into_iter().all(digits) {
        return None;
    }
    let number = |text: &str| text.parse::<u64>().ok();
    let thousandths = format!("{fraction:0<3}");
    Some((number(minutes)? * 60 + number(seconds)?) * 1000 + number(&thousandths[..3])?)
}

/// `ar:Someone`, `offset:+200`
fn is_tag(text: &str) -> bool {
    text.split_once(':').is_some_and(|(name, _)| {
        (1..=16).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'#')
    })
}
