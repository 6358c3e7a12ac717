//! JSON Lines and CSV: a record a song, its words in one field.

use std::borrow::Cow;
use std::cell::Cell;
use std::io::{BufRead, Read};
use std::path::Path;

use serde_json::Value;

use super::{Encoding, LONGEST_RECORD, Lines, Piece, Sink, encoding, section_lines, song};
use crate::error::{Error, Result};

/// What to do where a field is called otherwise.
pub(crate) const NAMES_ANOTHER: &str = "text_field names another";

/// The object of a line.
fn record(lines: &Lines, line: &str) -> Result<Value> {
    match serde_json::from_str(line) {
        Ok(record @ Value::Object(_)) => Ok(record),
        Ok(_) => Err(lines.bad("is JSON, but no object: in JSON Lines each line is one")),
        Err(error) => Err(lines.bad(&format!("is not JSON ({error}): in JSON Lines each line is one object"))),
    }
}

/// An object a line. The field holds the words as one string, or as a list of lines.
pub(super) fn read_json(lines: &mut Lines, field: &str, sink: &mut Sink) -> Result<()> {
    while let Some(line) = lines.next(LONGEST_RECORD)? {
        if line.trim().is_empty() {
            continue;
        }
        let record = record(lines, &line)?;
        match record.get(field) {
            Some(Value::String(text)) => song(text, sink)?,
            Some(Value::Array(list)) if list.iter().all(Value::is_string) => {
                // Each with its end, maybe, as a program read them from a file.
                let lines = list.iter().filter_map(Value::as_str);
                lines
                    .map(|line| line.strip_suffix('\n').unwrap_or(line))
                    .try_for_each(|line| section_lines(line, sink))?;
                sink(Piece::SongEnd)?;
            }
            // As a database leaves it where there are no words.
            Some(Value::Null) => {}
            Some(_) => return Err(lines.bad(&format!("has no text in '{field}'"))),
            None => {
                let names: Vec<&str> =
                    record.as_object().into_iter().flat_map(|o| o.keys().map(String::as_str)).collect();
                let reason = format!("has no field '{field}' (but {}): {NAMES_ANOTHER}", names.join(", "));
                return Err(lines.bad(&reason));
            }
        }
    }
    Ok(())
}

/// Where the texts of a triplet go, anchor, positive and maybe negative: the inner error says what is wrong with them.
pub(crate) type TripletSink<'s> = dyn FnMut([Option<&str>; 3]) -> Result<Result<(), String>> + 's;

/// Whether a record gives texts that belong together, and no song.
pub(super) fn is_triplet(record: &Value) -> bool {
    record.get("anchor").is_some() && record.get("positive").is_some()
}

/// An object a line with `anchor`, `positive` and maybe `negative`, each a string or a list of lines.
pub(super) fn read_triplets(lines: &mut Lines, sink: &mut TripletSink) -> Result<()> {
    while let Some(line) = lines.next(LONGEST_RECORD)? {
        if line.trim().is_empty() {
            continue;
        }
        let record = record(lines, &line)?;
        let text = |name: &str| match record.get(name) {
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(Value::Array(list)) if list.iter().all(Value::is_string) => {
                Ok(Some(list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n")))
            }
            // As a database leaves it.
            Some(Value::Null) | None => Ok(None),
            Some(_) => Err(lines.bad(&format!("has no text in '{name}'"))),
        };
        let missing = |name: &str| lines.bad(&format!("has no '{name}', as the triplets of this file have"));
        let anchor = text("anchor")?.ok_or_else(|| missing("anchor"))?;
        let positive = text("positive")?.ok_or_else(|| missing("positive"))?;
        let negative = text("negative")?;
        // As several are called, where they are texts.
        let is_another = |key: &str| {
            let rest = key.strip_prefix("negative").unwrap_or("negative");
            rest == "s"
                || rest.strip_prefix('_').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
        };
        let mut others = record.as_object().into_iter().flatten();
        if let Some((other, _)) = others.find(|(key, value)| is_another(key) && (value.is_string() || value.is_array()))
        {
            return Err(lines.bad(&format!("has '{other}': a triplet has one negative, called 'negative'")));
        }
        sink([Some(&anchor), Some(&positive), negative.as_deref()])?
            .map_err(|reason| lines.bad(&format!("is no triplet: {reason}")))?;
    }
    Ok(())
}

/// Ends where more was read than a record may have since it was last set to nothing: before all of a file is in memory.
struct Bounded<'t, R> {
    reader: R,
    taken: &'t Cell<usize>,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.taken.get() > LONGEST_RECORD {
            let reason = format!("a record is longer than {LONGEST_RECORD} bytes, or a quote is never closed");
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, reason));
        }
        let count = self.reader.read(buffer)?;
        self.taken.set(self.taken.get() + count);
        Ok(count)
    }
}

/// A line that no file has.
const END: &[u8] = b"\n\0\0the end\0\0\n";

/// What parts the fields of a `.csv`: a comma, unless the column is found with a semicolon, as spreadsheets write it where numbers have
/// commas, or a tab.
fn parting(reader: &mut dyn BufRead, encoding: Encoding, field: &str) -> std::io::Result<u8> {
    // A header is shorter than what is read at a time.
    let start = reader.fill_buf()?;
    let has_column = |delimiter: &u8| {
        let mut header = csv::ReaderBuilder::new().delimiter(*delimiter).flexible(true).from_reader(start);
        header.byte_headers().is_ok_and(|names| names.iter().any(|name| name_of(name, encoding).trim() == field))
    };
    Ok([b',', b';', b'\t'].into_iter().find(has_column).unwrap_or(b','))
}

/// The name of a column, without a byte order mark.
fn name_of(bytes: &[u8], encoding: Encoding) -> String {
    let bytes = bytes.strip_prefix(encoding::MARK).unwrap_or(bytes);
    encoding.decode(bytes).map(Cow::into_owned).unwrap_or_default()
}

/// A header, then a record a song.
pub(super) fn read_csv(
    mut reader: Box<dyn BufRead>,
    path: &Path,
    encoding: Encoding,
    delimiter: u8,
    field: &str,
    sink: &mut Sink,
) -> Result<()> {
    let bad = |reason: String| Error::BadData { path: path.to_owned(), reason };
    let wrong = |error: csv::Error| match error.into_kind() {
        csv::ErrorKind::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => bad(error.to_string()),
        csv::ErrorKind::Io(error) => Error::io(path)(error),
        other => bad(format!("not CSV: {other:?}")),
    };
    let delimiter = match delimiter {
        b',' => parting(&mut reader, encoding, field).map_err(Error::io(path))?,
        other => other,
    };
    // A quote that is never closed would take all that follows for one field: then the end is in it, and no record of its own.
    let (reader, taken) = (reader.chain(END), Cell::new(0));
    let reader = Bounded { reader, taken: &taken };
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).flexible(true).from_reader(reader);
    let mut header = reader.byte_headers().map_err(wrong)?.clone();
    if header.iter().eq([&END[1..END.len() - 1]]) {
        header.clear();
    }
    if header.iter().next_back().is_some_and(|field| field.ends_with(END)) {
        return Err(bad("a quote in the header is never closed".into()));
    }
    let names: Vec<String> = header.iter().map(|name| name_of(name, encoding)).collect();
    let column = names
        .iter()
        .position(|name| name.trim() == field)
        .ok_or_else(|| bad(format!("has no column '{field}' (but {}): {NAMES_ANOTHER}", names.join(", "))))?;
    let mut record = csv::ByteRecord::new();
    while reader.read_byte_record(&mut record).map_err(wrong)? {
        let line = record.position().map_or(0, |position| position.line());
        taken.set(0);
        if record.iter().eq([&END[1..END.len() - 1]]) {
            break;
        }
        if record.iter().next_back().is_some_and(|field| field.ends_with(END)) {
            return Err(bad(format!("a quote in the record at line {line} is never closed")));
        }
        if record.len() != header.len() {
            return Err(bad(format!("line {line} has {} fields, and the header {}", record.len(), header.len())));
        }
        let bytes = record.get(column).unwrap_or_default();
        if bytes.len() > LONGEST_RECORD {
            return Err(bad(format!("the record at line {line} is longer than {LONGEST_RECORD} bytes")));
        }
        let text =
            encoding.decode(bytes).ok_or_else(|| bad(format!("the record at line {line} is not valid UTF-8")))?;
        song(&text, sink)?;
    }
    Ok(())
}
