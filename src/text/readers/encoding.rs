//! UTF-8, or the Latin-1 of older files.

use std::borrow::Cow;
use std::io::BufRead;
use std::path::Path;

use crate::error::{Error, Result};

/// UTF-8's byte order mark.
pub(super) const MARK: &[u8] = b"\xef\xbb\xbf";

/// How a file's bytes are characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Utf8,
    /// With Windows' additions, as browsers read what calls itself Latin-1.
    Latin1,
}

/// Windows-1252's characters 0x80 to 0x9f (encoding.spec.whatwg.org/index-windows-1252.txt); a space where it has none.
const WINDOWS: [char; 32] = [
    '€', ' ', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', ' ', 'Ž', ' ', ' ', '‘', '’', '“', '”', '•', '–',
    '—', '˜', '™', 'š', '›', 'œ', ' ', 'ž', 'Ÿ',
];

impl Encoding {
    /// `None` for bytes that are not UTF-8 where they should be.
    pub(super) fn decode(self, bytes: &[u8]) -> Option<Cow<'_, str>> {
        match self {
            Self::Utf8 => std::str::from_utf8(bytes).ok().map(Cow::Borrowed),
            Self::Latin1 => Some(bytes.iter().map(|&byte| latin1(byte)).collect::<String>().into()),
        }
    }
}

/// „ … ‘ ’ “ ” • – — › and no-break space, ¡ « » ¿ ´ ·
fn is_punctuation(byte: u8) -> bool {
    matches!(byte, 0x84 | 0x85 | 0x91..=0x97 | 0x9b | 0xa0 | 0xa1 | 0xab | 0xb4 | 0xb7 | 0xbb | 0xbf)
}

/// Of so many bytes one after another those that are a word of such: not of two, nor a letter between quotes.
fn word(run: u64, letters: u64) -> u64 {
    if run > 2 && letters > 1 { run } else { 0 }
}

fn latin1(byte: u8) -> char {
    match byte {
        0x80..=0x9f => WINDOWS[usize::from(byte - 0x80)],
        _ => char::from(byte),
    }
}

/// Reads to the end. A file is Latin-1 where it is not UTF-8 and every byte is a printable character of Latin-1; one with
/// more of UTF-8's sequences than of bytes that cannot be UTF-8 is damaged UTF-8, not Latin-1. Nor is one whose bytes beyond ASCII mostly
/// stand three and more side by side: in the languages that Latin-1 is for, letters with accents are apart, or two (`coração`, `créée`), while
/// in Cyrillic, Greek, Chinese, Japanese and Korean encodings words are made of such bytes. Nor is one in which nothing is wrong but that it
/// ends within a character of UTF-8, behind two bytes of it or three. No line may be longer than `longest`.
pub(super) fn detect(reader: &mut dyn BufRead, path: &Path, longest: usize) -> Result<Encoding> {
    let bad = |reason: String| Error::BadData { path: path.to_owned(), reason };
    let (mut line, mut first_bad) = (1, None);
    // Of the bytes that cannot be UTF-8, those of a character that the end cuts off.
    let (mut sequences, mut wrong, mut cut) = (0u64, 0u64, 0u64);
    // Whether every byte so far is a character in Windows-1252.
    let mut printable = true;
    let mut rest: Vec<u8> = Vec::new();
    let mut start = true;
    // Of the line so far.
    let mut length = 0usize;
    // Bytes beyond ASCII: all, those in words of them, and of those just read one after another how many there are, and how many letters.
    let (mut high, mut in_words, mut run, mut letters) = (0u64, 0u64, 0u64, 0u64);
    loop {
        let chunk = reader.fill_buf().map_err(|error| match error.kind() {
            // What a decompressor says of bytes it does not understand.
            std::io::ErrorKind::InvalidData | std::io::ErrorKind::InvalidInput | std::io::ErrorKind::UnexpectedEof => {
                bad(format!("cannot be decompressed: {error}"))
            }
            _ => Error::io(path)(error),
        })?;
        let (count, end) = (chunk.len(), chunk.is_empty());
        if start && (chunk.starts_with(b"\xff\xfe") || chunk.starts_with(b"\xfe\xff")) {
            return Err(bad("is UTF-16: convert it to UTF-8".into()));
        }
        start = false;
        for &byte in chunk {
            if byte >= 0x80 {
                high += 1;
                run += 1;
                letters += u64::from(!is_punctuation(byte));
            } else {
                in_words += word(run, letters);
                (run, letters) = (0, 0);
            }
            length = if byte == b'\n' { 0 } else { length + 1 };
            // A carriage return at its end is none of it.
            if length - usize::from(byte == b'\r') > longest {
                return Err(bad(format!("has a line that is longer than {longest} bytes")));
            }
        }
        rest.extend_from_slice(chunk);
        reader.consume(count);
        let mut bytes = rest.as_slice();
        while !bytes.is_empty() {
            let (valid, error) = match std::str::from_utf8(bytes) {
                Ok(_) => (bytes.len(), None),
                Err(error) => (error.valid_up_to(), Some(error.error_len())),
            };
            for &byte in &bytes[..valid] {
                if byte == b'\n' {
                    line += 1;
                }
                // Tab, line feed, form feed and carriage return are text; so is an old DOS file's last byte.
                if byte == 0x7f || (byte < 0x20 && !matches!(byte, b'\t' | b'\n' | 0x0b | 0x0c | b'\r' | 0x1a | 0x1b)) {
                    return Err(bad(format!("line {line} holds the byte 0x{byte:02x}: not a text file")));
                }
                // Each sequence has one byte of this kind.
                sequences += u64::from(byte >= 0xc0);
                printable &= !matches!(byte, 0x81 | 0x8d | 0x8f | 0x90 | 0x9d);
            }
            bytes = &bytes[valid..];
            match error {
                None => {}
                // Cut off by the end of the chunk.
                Some(None) if !end => break,
                Some(length) => {
                    if length.is_none() {
                        cut = bytes.len() as u64;
                    }
                    let length = length.unwrap_or(bytes.len());
                    first_bad.get_or_insert(line);
                    wrong += length as u64;
                    printable &= !bytes[..length].iter().any(|byte| matches!(byte, 0x81 | 0x8d | 0x8f | 0x90 | 0x9d));
                    bytes = &bytes[length..];
                }
            }
        }
        let left = bytes.len();
        rest.drain(..rest.len() - left);
        if end {
            break;
        }
    }
    match first_bad {
        None => Ok(Encoding::Utf8),
        Some(line) if wrong == cut && cut > 1 => Err(Error::NotUtf8 { path: path.to_owned(), line }),
        Some(_) if printable && wrong > sequences && 2 * (in_words + word(run, letters)) <= high => {
            Ok(Encoding::Latin1)
        }
        Some(line) => Err(Error::NotUtf8 { path: path.to_owned(), line }),
    }
}
