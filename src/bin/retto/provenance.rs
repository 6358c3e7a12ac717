//! What a model was trained on, as far as its folder says.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{TRAINING_ARGUMENTS_FILE, output};

/// The options of the run that made a model, where it left them.
pub(crate) fn training_arguments(model: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(model.join(TRAINING_ARGUMENTS_FILE)).ok()?).ok()
}

/// How songs are held out of data: share, seed, and the field they are in.
#[derive(Clone, Copy)]
pub(crate) struct Split<'a> {
    pub(crate) share: f64,
    pub(crate) seed: u64,
    pub(crate) text_field: &'a str,
}

/// Whether a model was trained on data that it is to be judged by: all of them, or without a split, what is held out of them. `None` where that
/// cannot be known.
pub(crate) fn has_seen(model: &Path, data: &[PathBuf], split: Option<Split>) -> Option<bool> {
    let arguments = training_arguments(model)?;
    let paths = arguments["train"].as_array()?.iter().filter_map(Value::as_str).map(PathBuf::from);
    // What has moved, or was made of songs that may be anywhere, cannot be compared.
    let is_cache = |path: &PathBuf| path.extension().is_some_and(|it| it.eq_ignore_ascii_case("safetensors"));
    let known = |path: PathBuf| path.canonicalize().ok().filter(|_| path.is_absolute());
    let trained: Vec<Option<PathBuf>> = paths.map(known).collect();
    let judged: Vec<PathBuf> = data.iter().filter_map(|path| path.canonicalize().ok()).collect();
    let mut pairs = judged.iter().flat_map(|data| trained.iter().flatten().map(move |of| (data, of)));
    let overlap = pairs.any(|(data, of)| data.starts_with(of) || of.starts_with(data));
    let is_known = trained.iter().all(Option::is_some) && !trained.iter().flatten().chain(&judged).any(is_cache);
    let trained: Vec<PathBuf> = trained.into_iter().flatten().collect();
    // The same songs of the same files are held out by the same share and seed.
    let held_out_then = split.is_some_and(|split| {
        trained == judged
            && arguments["validation_split"].as_f64() == Some(split.share)
            && arguments["seed"].as_u64() == Some(split.seed)
            && arguments["text_field"].as_str() == Some(split.text_field)
    });
    if held_out_then || overlap {
        return Some(!held_out_then);
    }
    is_known.then_some(false)
}

/// Notes that a model was trained on what it is judged by.
pub(crate) fn note(model: &Path, data: &[PathBuf]) {
    let arguments = training_arguments(model).unwrap_or_default();
    let hint = match arguments["validation_split"].as_f64().filter(|share| *share > 0.0) {
        Some(share) => format!("it held out --validation-split {share} with --seed {} of them", arguments["seed"]),
        None => "nothing was held out of them: give others".to_owned(),
    };
    output::note(format!(
        "note: {} was trained on {}, or a part of that, so it looks better here than it is; {hint}",
        model.display(),
        crate::display(data)
    ));
}
