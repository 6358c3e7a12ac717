//! Where training and held-out text comes from: token caches, or files that are prepared on the way.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use retto::{Dataset, PrepareEvent, PrepareOptions, Prepared, Tokenizer, Unit};

use crate::{Result, output};

/// How text files are read.
#[derive(clap::Args)]
pub(crate) struct ReadArgs {
    /// The field of JSON Lines, or the column of CSV, that holds the words
    #[arg(long, default_value = "text", value_name = "NAME")]
    pub(crate) text_field: String,
    /// Stop at a bad file instead of leaving it out
    #[arg(long)]
    pub(crate) strict: bool,
}

/// How text becomes examples.
#[derive(clap::Args)]
pub(crate) struct UnitArgs {
    /// What an example is
    #[arg(long, value_enum, default_value_t = UnitName::Line, value_name = "UNIT")]
    pub(crate) unit: UnitName,
    #[command(flatten)]
    pub(crate) read: ReadArgs,
    /// Leave out examples that came before: choruses, songs found twice
    #[arg(long)]
    pub(crate) dedup: bool,
}

/// How examples are masked.
#[derive(clap::Args)]
pub(crate) struct MaskArgs {
    /// Share of the tokens that is masked
    #[arg(long, default_value_t = 0.15, value_name = "P", conflicts_with = "static_mask")]
    pub(crate) mlm_probability: f64,
    /// Of the masked tokens, how many become the mask token
    #[arg(long, default_value_t = 0.8, value_name = "P", conflicts_with = "static_mask")]
    pub(crate) mask_replace_prob: f64,
    /// Of the masked tokens, how many become a random one; the rest stay
    #[arg(long, default_value_t = 0.1, value_name = "P", conflicts_with = "static_mask")]
    pub(crate) random_replace_prob: f64,
    /// Mask whole words
    #[arg(long, conflicts_with = "static_mask")]
    pub(crate) whole_word_mask: bool,
    /// Use the masks stored in token caches, always the same, instead
    #[arg(long)]
    pub(crate) static_mask: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum UnitName {
    /// A line
    Line,
    /// A verse or chorus, its lines joined by the separator token
    Section,
    /// As many lines as fill the longest sequence
    Window,
}

impl UnitName {
    /// As it is given.
    pub(crate) fn name(self) -> String {
        clap::ValueEnum::to_possible_value(&self).map_or(String::new(), |value| value.get_name().to_owned())
    }
}

impl ReadArgs {
    /// Of sections to compare.
    pub(crate) fn sections(&self, max_seq_length: usize, validation_split: f64, seed: u64) -> PrepareOptions {
        PrepareOptions {
            unit: Unit::Section,
            text_field: self.text_field.clone(),
            strict: self.strict,
            validation_split,
            seed,
            ..PrepareOptions::new(max_seq_length)
        }
    }
}

impl UnitArgs {
    pub(crate) fn options(&self, max_seq_length: usize, validation_split: f64, seed: u64) -> PrepareOptions {
        PrepareOptions {
            unit: match self.unit {
                UnitName::Line => Unit::Line,
                UnitName::Section => Unit::Section,
                UnitName::Window => Unit::Window,
            },
            text_field: self.read.text_field.clone(),
            strict: self.read.strict,
            dedup: self.dedup,
            validation_split,
            seed,
            ..PrepareOptions::new(max_seq_length)
        }
    }
}

/// Whether a path is that of a token cache.
pub(crate) fn is_cache(path: &Path) -> bool {
    path.extension().is_some_and(|it| it.eq_ignore_ascii_case("safetensors"))
}

/// Opens a token cache, or prepares text files for this run alone; the second is what was held out of them.
pub(crate) fn load(
    tokenizer: &Tokenizer,
    paths: &[PathBuf],
    options: &PrepareOptions,
) -> Result<(Dataset, Option<Dataset>)> {
    if let [path] = paths
        && is_cache(path)
    {
        if options.validation_split > 0.0 {
            let reason = "a token cache is split when it is prepared: give --validation-split to `retto prepare`, and \
                          its validation.safetensors to --validation";
            return Err(reason.into());
        }
        let data = Dataset::open(path, tokenizer)?;
        refuse_other_units(&data, options)?;
        if data.truncated() > 0 {
            let (count, longest) = (data.truncated(), data.longest());
            output::note(format!("note: {count} of its examples are cut: it was prepared for {longest} tokens"));
        }
        return Ok((data, None));
    }
    if let Some(path) = paths.iter().find(|path| is_cache(path)) {
        let path = path.display();
        return Err(format!("{path} is a token cache, which is given alone: prepare all text into one").into());
    }
    let reading = Reading::new();
    let (train, validation, prepared) = retto::load_corpus(tokenizer, paths, options, |event| reading.show(&event))?;
    reading.finish(&prepared);
    note_left_out(&prepared);
    for (counts, what) in [(&prepared.train, ""), (&prepared.validation, "held-out ")] {
        if counts.truncated > 0 {
            let (lines, longest) = (counts.truncated, options.max_seq_length);
            output::note(format!("note: {lines} {what}lines were longer than {longest} tokens and were cut"));
        }
    }
    Ok((train, validation))
}

/// Says what was left out: lines which the vocabulary knows nothing in, headings, files of other kinds.
pub(crate) fn note_left_out(prepared: &Prepared) {
    match prepared.headings {
        0 => {}
        1 => output::note("note: 1 heading, such as [Chorus], was left out"),
        headings => output::note(format!("note: {headings} headings, such as [Chorus], were left out")),
    }
    match prepared.passed_over {
        0 => {}
        1 => output::note("note: 1 file of another kind was passed over; named by itself it is read, as text"),
        files => output::note(format!(
            "note: {files} files of other kinds were passed over; named themselves they are read, as text"
        )),
    }
    match prepared.unknown {
        0 => {}
        1 => output::note("note: 1 line holds nothing that the vocabulary knows, and was left out"),
        lines => output::note(format!("note: {lines} lines hold nothing that the vocabulary knows, and were left out")),
    }
}

/// Options of what an example is that a token cache, which was made with its own, cannot follow.
fn refuse_other_units(data: &Dataset, options: &PrepareOptions) -> Result<()> {
    let made_with = |name: &str| data.metadata().get(name).map_or("", String::as_str);
    let unit = format!("{:?}", options.unit).to_lowercase();
    let other = match options {
        _ if options.unit != Unit::Line && made_with("unit") != unit => {
            Some((format!("of {}s", made_with("unit")), format!("--unit {unit}")))
        }
        _ if options.dedup && made_with("dedup") != "true" => Some(("with its doubles".into(), "--dedup".into())),
        _ => None,
    };
    match other {
        Some((of, option)) => Err(format!("this token cache is {of}: prepare one with {option}").into()),
        None => Ok(()),
    }
}

/// [`retto::prepare`] with a progress bar, and notes about files that are not as they should be.
pub(crate) fn prepare(
    tokenizer: &Tokenizer,
    paths: &[PathBuf],
    train: &Path,
    validation: Option<&Path>,
    options: &PrepareOptions,
) -> Result<Prepared> {
    let reading = Reading::new();
    let prepared = retto::prepare(tokenizer, paths, train, validation, options, |event| reading.show(&event))?;
    reading.finish(&prepared);
    Ok(prepared)
}

/// All lines of text files.
pub(crate) fn lines(paths: &[PathBuf], args: &ReadArgs) -> Result<Vec<String>> {
    let reading = Reading::new();
    Ok(retto::read_corpus(paths, &args.text_field, args.strict, |event| reading.show(&event))?)
}

/// A bar on a terminal.
struct Reading {
    bar: ProgressBar,
}

impl Reading {
    fn new() -> Self {
        Self { bar: output::bar("{wide_bar} {bytes}/{total_bytes} read  {eta} left") }
    }

    /// Goes on always: Ctrl-C ends the process.
    fn show(&self, event: &PrepareEvent) -> ControlFlow<()> {
        match event {
            PrepareEvent::Found { bytes, .. } => self.bar.set_length(*bytes),
            PrepareEvent::Progress { bytes, .. } => self.bar.set_position(*bytes),
            PrepareEvent::Latin1 { path, .. } => {
                self.note(format!("note: {} is not UTF-8; read as Latin-1", path.display()))
            }
            PrepareEvent::Skipped { error, .. } => self.note(format!("note: left out: {error}")),
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn note(&self, text: String) {
        self.bar.suspend(|| output::note(text));
    }

    fn finish(&self, prepared: &Prepared) {
        self.bar.finish_and_clear();
        let (skipped, files) = (prepared.skipped_files, prepared.files + prepared.skipped_files);
        if skipped > 0 {
            output::note(format!("note: {skipped} of {files} files were left out; --strict makes that an error"));
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
