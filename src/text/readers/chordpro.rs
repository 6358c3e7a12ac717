//! ChordPro (chordpro.org): `[Am]chords` within words, `{directives}`, `# comments`, and `<b>markup</b>`.

use super::{LONGEST_LINE, Lines, Piece, Sink, lines_of, trimmed, words_or_heading};
use crate::error::Result;

/// Environments that hold no words to sing.
const NOT_SUNG: [&str; 7] = ["tab", "grid", "abc", "ly", "svg", "textblock", "strum"];

/// Chords and directives are removed; sections begin and end where the file says so, and at blank lines. A title after
/// words begins a new song, as does `{new_song}`.
pub(super) fn read(lines: &mut Lines, sink: &mut Sink) -> Result<()> {
    // The environment being left out.
    let mut unsung: Option<String> = None;
    let mut words_since_song = false;
    while let Some(text) = lines.next(LONGEST_LINE)? {
        for line in lines_of(&text) {
            let line = trimmed(line);
            if line.starts_with('#') {
                continue;
            }
            if let Some(directive) = line.strip_prefix('{') {
                let directive = directive.strip_suffix('}').unwrap_or(directive).trim_start_matches([' ', '\t', ':']);
                let name = directive.split([':', ' ', '}']).next().unwrap_or_default().trim().to_ascii_lowercase();
                // `{title-guitar}` is for guitars only, and a title all the same.
                let name = name.split('-').next().unwrap_or_default();
                match (begins(name), ends(name)) {
                    (Some(what), _) => {
                        sink(Piece::SectionEnd)?;
                        if NOT_SUNG.contains(&what) {
                            unsung = Some(what.to_owned());
                        }
                    }
                    (_, Some(what)) => {
                        sink(Piece::SectionEnd)?;
                        if unsung.as_deref() == Some(what) {
                            unsung = None;
                        }
                    }
                    _ if matches!(name, "new_song" | "ns") || (matches!(name, "title" | "t") && words_since_song) => {
                        sink(Piece::SongEnd)?;
                        (words_since_song, unsung) = (false, None);
                    }
                    _ => {}
                }
                continue;
            }
            if unsung.is_some() {
                continue;
            }
            let words = without_chords(line);
            if words.is_empty() {
                // A line of chords alone is played within a section.
                if line.is_empty() {
                    sink(Piece::SectionEnd)?;
                }
                continue;
            }
            words_since_song = true;
            sink(words_or_heading(&words))?;
        }
    }
    Ok(())
}

fn begins(name: &str) -> Option<&str> {
    match name {
        "soc" => Some("chorus"),
        "sov" => Some("verse"),
        "sob" => Some("bridge"),
        "sot" => Some("tab"),
        "sog" => Some("grid"),
        _ => name.strip_prefix("start_of_"),
    }
}

fn ends(name: &str) -> Option<&str> {
    match name {
        "eoc" => Some("chorus"),
        "eov" => Some("verse"),
        "eob" => Some("bridge"),
        "eot" => Some("tab"),
        "eog" => Some("grid"),
        _ => name.strip_prefix("end_of_"),
    }
}

fn without_chords(line: &str) -> String {
    let mut words = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, after)) = rest.split_once('[') {
        words.push_str(before);
        // A bracket that is never closed is the singer's.
        let Some((_, after)) = after.split_once(']') else {
            words.push('[');
            rest = after;
            break;
        };
        rest = after;
    }
    words.push_str(rest);
    without_markup(&words).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Its elements of markup (chordpro.org, Using markup): as they are, and those with attributes.
const MARKUP: [&str; 13] = ["b", "big", "i", "img", "s", "small", "span", "strut", "sub", "sup", "sym", "tt", "u"];
/// Bytes of one, attributes included.
const LONGEST_TAG: usize = 1024;
const WITH_ATTRIBUTES: [&str; 4] = ["img", "span", "strut", "sym"];

fn is_markup(tag: &str) -> bool {
    let (name, attributes) = tag.split_once(' ').unwrap_or((tag, ""));
    match attributes {
        "" => MARKUP.contains(&name),
        // A symbol's name has no value.
        _ => WITH_ATTRIBUTES.contains(&name) && (name == "sym" || attributes.contains('=')),
    }
}

/// Without the tags; what else stands between `<` and `>` is sung.
fn without_markup(line: &str) -> String {
    let mut words = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find('<') {
        let (before, tag) = rest.split_at(at);
        words.push_str(before);
        let end = tag
            .bytes()
            .take(LONGEST_TAG)
            .position(|byte| byte == b'>')
            .filter(|&end| is_markup(tag[1..end].trim_matches('/').trim()));
        let (tag, after) = tag.split_at(end.map_or(1, |end| end + 1));
        if end.is_none() {
            words.push_str(tag);
        }
        rest = after;
    }
    words.push_str(rest);
    words
}
