//! What a model was trained on, as far as its folder says.

use std::path::{Path, PathBuf};

use retto::{Dataset, MetricsFile, Triplets};
use serde_json::Value;

use crate::{TRAINING_ARGUMENTS_FILE, data, output};

/// What a run's best model is called, in its output.
pub(crate) const BEST: &str = "checkpoint-best";

/// The options of the run that made a model, where it left them.
pub(crate) fn training_arguments(model: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(arguments_file(model)).ok()?).ok()
}

/// Where a run's options are left: of a checkpoint that has none, in the folder that this is in, unless another run has begun there. The best
/// model of a run stays beside what a later one made, under that name or another that begins so.
fn arguments_file(model: &Path) -> PathBuf {
    let own = model.join(TRAINING_ARGUMENTS_FILE);
    if model.file_name().is_some_and(|name| name.to_string_lossy().starts_with(BEST)) {
        return own;
    }
    let is_over = |output: &&Path| !MetricsFile::is_unfinished(output);
    match model.parent().filter(|_| is_checkpoint(model) && !own.exists()).filter(is_over) {
        Some(output) => output.join(TRAINING_ARGUMENTS_FILE),
        None => own,
    }
}

/// Whether a folder's name is that of a run's checkpoint.
fn is_checkpoint(model: &Path) -> bool {
    model.file_name().is_some_and(|name| name.to_string_lossy().starts_with("checkpoint-"))
}

/// How songs are held out of data: share, seed, and the field they are in.
#[derive(Clone, Copy)]
pub(crate) struct Split<'a> {
    pub(crate) share: f64,
    pub(crate) seed: u64,
    pub(crate) text_field: &'a str,
}

/// What a model is judged by.
#[derive(Clone, Copy)]
pub(crate) struct Judged<'a> {
    /// Files and folders.
    pub(crate) paths: &'a [PathBuf],
    /// What is held out of them; without, all of it.
    pub(crate) split: Option<Split<'a>>,
    /// What songs they were as they were read: see [`corpus`].
    pub(crate) corpus: Option<&'a str>,
}

/// What songs data are of, as a hash: files that were added or changed move songs to the other side of a split.
pub(crate) fn corpus(data: &Dataset) -> Option<&str> {
    data.metadata().get("corpus").map(String::as_str)
}

/// Whether a model was trained on data that it is to be judged by: all of them, or without a split, what is held out of them. `None` where that
/// cannot be known.
fn has_seen(model: &Path, judged: Judged) -> Option<bool> {
    has_seen_since(model, judged, &mut Vec::new())
}

/// The same, where models in these folders were made of it.
fn has_seen_since(model: &Path, judged: Judged, since: &mut Vec<PathBuf>) -> Option<bool> {
    let folder = model.canonicalize().ok()?;
    // It was written over, and with it what it was made of.
    if since.contains(&folder) {
        return None;
    }
    since.push(folder);
    let arguments = training_arguments(model)?;
    let own = trained_on(&arguments, judged);
    // What it was made of may have been trained as well.
    let base = arguments["model"].as_str().map(Path::new).filter(|base| base.is_absolute());
    match (own, base) {
        (Some(false), Some(base)) if !base.exists() => None,
        (own, Some(base)) if own != Some(true) && (arguments_file(base).is_file() || is_checkpoint(base)) => {
            match (own, has_seen_since(base, judged, since)) {
                (_, Some(true)) => Some(true),
                (Some(false), Some(false)) => Some(false),
                _ => None,
            }
        }
        (own, _) => own,
    }
}

/// The same of one run.
fn trained_on(arguments: &Value, Judged { paths: data, split, corpus }: Judged) -> Option<bool> {
    let paths = arguments["train"].as_array()?.iter().filter_map(Value::as_str).map(PathBuf::from);
    let known = |path: PathBuf| path.canonicalize().ok().filter(|_| path.is_absolute());
    // What has moved cannot be compared.
    let trained: Vec<Option<PathBuf>> = paths.map(known).collect();
    let judged: Vec<PathBuf> = data.iter().filter_map(|path| path.canonicalize().ok()).collect();
    let is_known = trained.iter().all(Option::is_some);
    let trained: Vec<PathBuf> = trained.into_iter().flatten().collect();
    let mut pairs = judged.iter().flat_map(|data| trained.iter().map(move |of| (data, of)));
    let overlap = pairs.any(|(data, of)| data.starts_with(of) || of.starts_with(data));
    let same_songs = arguments["corpus"].as_str().zip(corpus).map(|(then, now)| then == now);
    let is_made = trained.iter().chain(&judged).any(is_made);
    // The same songs are held out of the same by the same share and seed, wherever they are; of others others.
    let same_split = is_split_of(arguments, split);
    if same_split && is_known && trained == judged {
        return same_songs.map(|same| !same);
    }
    if same_songs == Some(true) && !is_made {
        return Some(!same_split);
    }
    if overlap {
        return Some(true);
    }
    // Nor can what was made of songs that may be anywhere.
    (is_known && !is_made).then_some(false)
}

/// Whether a run held out what this split does, were it of the same songs.
fn is_split_of(arguments: &Value, split: Option<Split>) -> bool {
    split.is_some_and(|split| {
        arguments["validation_split"].as_f64() == Some(split.share)
            && arguments["seed"].as_u64() == Some(split.seed)
            && arguments["text_field"].as_str() == Some(split.text_field)
    })
}

/// Whether it was made of songs that may be anywhere: a token cache, or triplets.
fn is_made(path: &PathBuf) -> bool {
    data::is_cache(path) || Triplets::is_json_lines(path)
}

/// As [`has_seen`]; notes it on stderr where it was.
pub(crate) fn check(model: &Path, judged: Judged) -> Option<bool> {
    let seen = has_seen(model, judged);
    if seen == Some(true) {
        note(model, judged);
    }
    seen
}

/// Notes where validation data are, or hold, some that are trained on.
pub(crate) fn check_apart(train: &[PathBuf], validation: &[PathBuf]) {
    let whole = |paths: &[PathBuf]| paths.iter().filter_map(|path| path.canonicalize().ok()).collect::<Vec<_>>();
    let (train, validation) = (whole(train), whole(validation));
    let same = validation.iter().find(|data| train.iter().any(|of| data.starts_with(of) || of.starts_with(data)));
    if let Some(path) = same {
        output::note(format!(
            "note: {} is trained on as well, so what is held out looks better than it is",
            path.display()
        ));
    }
}

fn note(model: &Path, judged: Judged) {
    let arguments = training_arguments(model).unwrap_or_default();
    let hint = match arguments["validation_split"].as_f64().filter(|share| *share > 0.0) {
        Some(_) if is_split_of(&arguments, judged.split) => {
            "songs were added or changed since it held out as many, so others are held out now".to_owned()
        }
        // Who splits the data here can do so as the run did.
        Some(share) if judged.split.is_some() => {
            format!(
                "it held out --validation-split {share} with --seed {} of them: give these here, too",
                arguments["seed"]
            )
        }
        Some(share) => format!(
            "it held out --validation-split {share} with --seed {} of them: give these to `retto prepare`, and judge it by the \
             validation.safetensors that this writes",
            arguments["seed"]
        ),
        None => "nothing was held out of them: give others".to_owned(),
    };
    output::note(format!(
        "note: {} was trained on {}, or a part of that, so it looks better here than it is; {hint}",
        model.display(),
        crate::display(judged.paths)
    ));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_cannot_be_known_is_not_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().canonicalize().unwrap().join(name);
        let [a, b] = ["a.txt", "b.txt"].map(|name| {
            std::fs::write(path(name), "the rain\n").unwrap();
            path(name)
        });
        let model = |name: &str, made_of: &Path, train: &[&Path]| {
            std::fs::create_dir_all(path(name)).unwrap();
            let arguments = json!({
                "model": made_of, "train": train, "validation_split": 0.2, "seed": 42, "text_field": "text", "corpus": "a1"
            });
            std::fs::write(path(name).join(TRAINING_ARGUMENTS_FILE), arguments.to_string()).unwrap();
            path(name)
        };
        let plain = path("plain");
        std::fs::create_dir(&plain).unwrap();
        let split = |seed| Some(Split { share: 0.2, seed, text_field: "text" });
        let seen_of = |model: &Path, data: &[&Path], split, corpus| {
            has_seen(model, Judged { paths: &data.iter().map(PathBuf::from).collect::<Vec<_>>(), split, corpus })
        };
        let seen = |model: &Path, data: &[&Path], split| seen_of(model, data, split, split.map(|_| "a1"));
        let on_a = model("on a", &plain, &[&a]);
        assert_eq!(seen(&plain, &[&a], None), None);
        assert_eq!(seen(&on_a, &[&a], None), Some(true));
        assert_eq!(seen(&on_a, &[folder.path()], None), Some(true));
        assert_eq!(seen(&on_a, &[&b], None), Some(false));
        assert_eq!(seen(&on_a, &[&a], split(42)), Some(false));
        assert_eq!(seen(&on_a, &[&a], split(7)), Some(true));
        assert_eq!(seen_of(&on_a, &[&a, &b], split(42), Some("b2")), Some(true));
        // Where songs were added since, others are held out.
        assert_eq!(seen_of(&on_a, &[&a], split(42), Some("b2")), Some(true));
        assert_eq!(seen_of(&on_a, &[&a], split(42), None), None);
        // The same songs by another name.
        assert_eq!(seen_of(&on_a, &[&b], None, Some("a1")), Some(true));
        assert_eq!(seen_of(&on_a, &[&b], split(42), Some("a1")), Some(false));
        assert_eq!(seen_of(&on_a, &[&b], split(7), Some("a1")), Some(true));
        // What one was made of counts, and where it is gone nobody knows.
        let on_both = model("on both", &on_a, &[&b]);
        assert_eq!(seen(&on_both, &[&a], None), Some(true));
        assert_eq!(seen(&model("lost", &path("gone"), &[&b]), &[&a], None), None);
        // Of a model that was trained in place, or of two that were made of each other, nobody knows what came before.
        assert_eq!(seen(&model("in place", &path("in place"), &[&b]), &[&a], None), None);
        model("one", &path("other"), &[&b]);
        let other = model("other", &path("one"), &[&b]);
        assert_eq!((seen(&other, &[&a], None), seen(&other, &[&b], None)), (None, Some(true)));
        // A checkpoint was trained on what its run is.
        let checkpoint = on_a.join("checkpoint-60");
        std::fs::create_dir(&checkpoint).unwrap();
        assert_eq!(seen(&checkpoint, &[&a], None), Some(true));
        assert_eq!(seen(&model("of a checkpoint", &checkpoint, &[&b]), &[&a], None), Some(true));
        // Unless another run has begun there since; one that says itself what it was trained on is believed.
        std::fs::write(on_a.join("metrics.jsonl.part"), "").unwrap();
        assert_eq!(seen(&checkpoint, &[&a], None), None);
        model("on a/checkpoint-60", &plain, &[&b]);
        assert_eq!((seen(&checkpoint, &[&a], None), seen(&checkpoint, &[&b], None)), (Some(false), Some(true)));
        let unfinished = path("unfinished/checkpoint-2");
        std::fs::create_dir_all(&unfinished).unwrap();
        assert_eq!(seen(&model("of an unfinished run", &unfinished, &[&b]), &[&a], None), None);
        // Files that are not where they were change which songs are held out.
        let moved = model("moved", &plain, &[&path("gone.txt"), &a]);
        assert_eq!((seen_of(&moved, &[&a], split(42), Some("b2")), seen(&moved, &[&b], None)), (Some(true), None));
        assert_eq!(seen(&model("relative", &plain, &[Path::new("a.txt")]), &[&b], None), None);
        std::fs::write(path("cache.safetensors"), "").unwrap();
        assert_eq!(seen(&model("cached", &plain, &[&path("cache.safetensors")]), &[&a], None), None);
    }
}
