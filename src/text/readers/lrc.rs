//! Timed lyrics: `[ti:A title]`, `[01:23.45] a line`, `[00:10][00:50] a line sung twice`, `<01:23.45>` or `[01:23.45]` before a word or syllable.

use std::borrow::Cow;

use super::{LONGEST_LINE, Lines, Piece, Sink, lines_of, trimmed, words_or_heading};
use crate::error::Result;

/// Times of a line, and of those that go with it.
const MOST_TIMES: usize = 1000;
const MOST_REPEATS: usize = 50;
/// Bytes of a time: what is looked through for each bracket that is open.
const LONGEST_TIME: usize = 32;
/// The same of a title.
const LONGEST_TAG: usize = 512;

/// A file is a song. Tags and times are removed; lines that are sung several times come as often, in the order of their
/// times; a timed line without words, or a blank one, ends a section.
pub(super) fn read(lines: &mut Lines, sink: &mut Sink) -> Result<()> {
    // The time, and the words: none where a section ends.
    let mut sung: Vec<(u64, String)> = Vec::new();
    let mut several = false;
    // Times of the line before.
    let mut last = vec![0];
    while let Some(text) = lines.next(LONGEST_LINE)? {
        for line in lines_of(&text) {
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
        sink(if words.is_empty() { Piece::SectionEnd } else { words_or_heading(&words) })?;
    }
    Ok(())
}

/// The times (in milliseconds) and whether there are tags before the words, and the words.
fn parse(line: &str) -> (Vec<u64>, bool, String) {
    let line = with_background(line);
    let (mut times, mut tags, mut rest) = (Vec::new(), false, trimmed(&line));
    while let Some(open) = rest.strip_prefix('[') {
        // A title may hold brackets itself.
        let Some((inside, after)) = closing(open).map(|at| (&open[..at], &open[at + 1..])) else { break };
        match time(inside) {
            Some(time) => times.push(time),
            None if is_tag(inside) => tags = true,
            // Words in brackets: `[Chorus]`.
            None => break,
        }
        rest = after.trim_start();
    }
    // The same twice, as the line's and its first word's, is sung once.
    times.dedup();
    // Times of words or syllables, and where a line ends.
    let mut words = String::with_capacity(rest.len());
    let mut syllables = false;
    while let Some(at) = rest.find(['<', '[']) {
        words.push_str(&rest[..at]);
        let (open, after) = rest[at..].split_at(1);
        let close = if open == "<" { b'>' } else { b']' };
        match after.bytes().take(LONGEST_TIME).position(|byte| byte == close) {
            Some(end) if time(&after[..end]).is_some() => {
                rest = &after[end + 1..];
                syllables |= open == "[" && !rest.trim_start().is_empty();
            }
            _ => {
                words.push_str(open);
                rest = after;
            }
        }
    }
    words.push_str(rest);
    if syllables {
        // The others are those of its first ones.
        times.truncate(1);
    }
    (times, tags, words.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// With the words of `[bg: ...]`, which are sung behind the others, like any.
fn with_background(line: &str) -> Cow<'_, str> {
    const BEGIN: &str = "[bg:";
    if !line.contains(BEGIN) {
        return line.into();
    }
    let mut words = String::with_capacity(line.len());
    // Of each bracket that is open, whether it is one of these.
    let mut open = Vec::new();
    let mut rest = line;
    while let Some(at) = rest.find(['[', ']']) {
        words.push_str(&rest[..at]);
        rest = &rest[at..];
        let begins = rest.starts_with(BEGIN);
        let is_one = match rest.starts_with('[') {
            true => {
                open.push(begins);
                begins
            }
            false => open.pop() == Some(true),
        };
        words.push_str(if is_one { " " } else { &rest[..1] });
        rest = &rest[if begins { BEGIN.len() } else { 1 }..];
    }
    words.push_str(rest);
    words.into()
}

/// Where the bracket that is open closes; the first that closes one, where they are not paired.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 1;
    let near = || text.bytes().take(LONGEST_TAG);
    let paired = near().position(|byte| {
        depth += i32::from(byte == b'[') - i32::from(byte == b']');
        depth == 0
    });
    paired.or_else(|| near().position(|byte| byte == b']'))
}

/// `mm:ss`, `mm:ss.xx`, `mm:ss:xx`, `mm:ss,xx` or `hh:mm:ss.xx`, in milliseconds; before the beginning it is that.
fn time(text: &str) -> Option<u64> {
    let text = text.trim();
    let is_before = text.starts_with('-');
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (whole, mut fraction) = text.split_once(['.', ',']).unwrap_or((text, "0"));
    let mut parts: Vec<&str> = whole.split(':').collect();
    if parts.len() == 3 && whole.len() == text.len() {
        fraction = parts.pop()?;
    }
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !(2..=3).contains(&parts.len()) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    let mut seconds = 0;
    for part in parts {
        if !digits(part) || part.len() > 6 {
            return None;
        }
        seconds = seconds * 60 + part.parse::<u64>().ok()?;
    }
    let thousandths = format!("{fraction:0<3}");
    let time = seconds * 1000 + thousandths[..3].parse::<u64>().ok()?;
    Some(if is_before { 0 } else { time })
}

/// `ar:Someone`, `offset:+200`, `t_time:(03:20)`
fn is_tag(text: &str) -> bool {
    text.split_once(':').is_some_and(|(name, _)| {
        let of_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'#' | b'_' | b'-');
        let begins = |byte: &u8| byte.is_ascii_alphabetic() || *byte == b'#';
        name.len() <= 16 && name.as_bytes().first().is_some_and(begins) && name.bytes().all(of_name)
    })
}
