//! Sentence and section embeddings.

use std::ops::ControlFlow;
use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::files::write_whole;
use crate::gpu::Pass;
use crate::model::{BertConfig, MODULES_FILE, Model, Module, Pooling, read_json};
use crate::text::{ASKED, Dataset, PackedBatch, SHORTEST};

/// How texts are embedded. [`EmbedOptions::open`] reads what a model was made for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EmbedOptions {
    /// How the vectors of the tokens become one.
    pub pooling: Pooling,
    /// Whether vectors are scaled to a 2-norm of 1: their dot products are then cosines.
    pub normalize: bool,
    /// Longest text in tokens, special tokens included; longer ones are cut. Without, the model's `max_position_embeddings`.
    pub max_seq_length: Option<usize>,
    /// Whether a text that would be cut is an error instead.
    pub strict: bool,
    /// Whether texts are put into lower case before the tokenizer sees them, as some cased models want it.
    pub do_lower_case: bool,
}

/// One vector for each text: row-major f32 of shape \[texts, dimension\].
#[derive(Clone, Debug, PartialEq)]
pub struct Embeddings {
    values: Vec<f32>,
    dimension: usize,
    truncated: usize,
}

impl Embeddings {
    /// All values, row-major, \[texts, dimension\].
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Numbers in a vector: the model's `hidden_size`.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// How many texts were longer than the longest sequence, and cut.
    pub fn truncated(&self) -> usize {
        self.truncated
    }

    /// How many vectors there are.
    pub fn len(&self) -> usize {
        self.values.len() / self.dimension
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The vectors in the order of the texts.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.dimension)
    }

    /// What [`Embeddings::save`] writes.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for more bytes than the format can hold.
    pub fn to_safetensors(&self) -> Result<Vec<u8>> {
        let failed = |error: safetensors::SafeTensorError| Error::InvalidArgument(error.to_string());
        let (shape, bytes) = (vec![self.len(), self.dimension], bytemuck::cast_slice(&self.values));
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, bytes).map_err(failed)?;
        safetensors::serialize([("embeddings", view)], None).map_err(failed)
    }

    /// Writes them as one tensor called `embeddings`, f32, \[texts, dimension\].
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let written = self.to_safetensors()?;
        // A pipe or another device is written to, and so is what a link leads to.
        if path.symlink_metadata().is_ok_and(|there| !there.is_file()) {
            return std::fs::write(path, written).map_err(Error::io(path));
        }
        write_whole(path, &written)
    }
}

impl EmbedOptions {
    /// Those of a model's folder in the layout of sentence-transformers: `modules.json`, the pooling's `config.json`,
    /// `sentence_bert_config.json`. Of a folder without `modules.json` the defaults, which are those that
    /// sentence-transformers takes for it, too. The longest text that is read whole is the tokenizer's `model_max_length` where nothing
    /// else says it. [`Model::save`] writes no such files, [`EmbedOptions::save`] does.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::BadCheckpoint`] name the file at fault; [`Error::Unsupported`] for parts, kinds of pooling
    /// and prompts that this crate does not have.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let mut options = Self::default();
        let Some(modules) = Module::list(folder)? else {
            // A name that was mistyped is not to be answered with the defaults.
            std::fs::read_dir(folder).map_err(Error::io(folder))?;
            options.max_seq_length = model_max_length(folder)?;
            return Ok(options);
        };
        let order: Vec<&str> = modules.iter().map(|module| module.name.as_str()).collect();
        let known = [&["Transformer", "Pooling"][..], &["Transformer", "Pooling", "Normalize"]];
        if order.iter().all(|name| known[1].contains(name)) && !known.contains(&&order[..]) {
            let reason = format!("{}: a model of the parts {}", folder.display(), order.join(", "));
            return Err(Error::Unsupported(reason));
        }
        for Module { name, kind, folder: place } in modules {
            match name.as_str() {
                "Transformer" => {
                    let (path, bert) = transformer_options(&place)?;
                    // Each would change what is read of a text, or taken of it.
                    let other = ["tokenizer_args", "processor_kwargs", "processing_kwargs"];
                    let changes = |(key, value): (&String, &Value)| key != "trust_remote_code" && !value.is_null();
                    let other = other.into_iter().find(|key| bert[*key].as_object().into_iter().flatten().any(changes));
                    let output = bert["module_output_name"].as_str().filter(|name| *name != "token_embeddings");
                    if let Some(what) = other.or(output.map(|_| "module_output_name")) {
                        return Err(Error::Unsupported(format!("{}: {what}", path.display())));
                    }
                    let length = bert["max_seq_length"].as_u64().filter(|&length| length > 0);
                    options.max_seq_length = match length {
                        // What the model cannot read it cannot have been made for.
                        Some(length) => {
                            Some(usize::try_from(length.min(max_position_embeddings(&place)?)).unwrap_or(usize::MAX))
                        }
                        // Newer versions write it only there.
                        None => model_max_length(&place)?,
                    };
                    options.do_lower_case = bert["do_lower_case"].as_bool().unwrap_or(false);
                }
                "Pooling" => {
                    let path = place.join("config.json");
                    let missing = || Error::checkpoint(&path, "the pooling's config.json is missing");
                    options.pooling = pooling_of(&read_json(&path)?.ok_or_else(missing)?, &path)?;
                }
                "Normalize" => options.normalize = true,
                _ => {
                    let reason = format!("{}: a model with a '{kind}' part", folder.display());
                    return Err(Error::Unsupported(reason));
                }
            }
        }
        let path = folder.join("config_sentence_transformers.json");
        let whole = read_json(&path)?.unwrap_or_default();
        if let Some(name) = whole["default_prompt_name"].as_str() {
            let reason = format!("{}: a prompt before each text ('{name}')", path.display());
            return Err(Error::Unsupported(reason));
        }
        if !whole["truncate_dim"].is_null() {
            let reason = format!("{}: vectors cut to truncate_dim {}", path.display(), whole["truncate_dim"]);
            return Err(Error::Unsupported(reason));
        }
        Ok(options)
    }

    /// Writes what [`EmbedOptions::open`] reads beside a model that was saved there, so that sentence-transformers loads the
    /// folder, too: `1_Pooling/config.json`, `sentence_bert_config.json` and, last, `modules.json`.
    ///
    /// # Errors
    /// [`Error::Io`] naming what could not be written.
    pub fn save(&self, folder: impl AsRef<Path>, config: &BertConfig) -> Result<()> {
        let folder = folder.as_ref();
        let mut modules = vec![("", "Transformer"), ("1_Pooling", "Pooling")];
        if self.normalize {
            modules.push(("2_Normalize", "Normalize"));
        }
        for (path, _) in &modules {
            let place = folder.join(path);
            std::fs::create_dir_all(&place).map_err(Error::io(&place))?;
        }
        let pooling = serde_json::json!({
            "word_embedding_dimension": config.hidden_size,
            "pooling_mode_cls_token": self.pooling == Pooling::Cls,
            "pooling_mode_mean_tokens": self.pooling == Pooling::Mean,
            "pooling_mode_max_tokens": self.pooling == Pooling::Max,
            "pooling_mode_mean_sqrt_len_tokens": false,
        });
        write_json(&folder.join("1_Pooling"), "config.json", &pooling)?;
        let longest = self.max_seq_length.unwrap_or(config.max_position_embeddings);
        let bert = serde_json::json!({ "max_seq_length": longest, "do_lower_case": self.do_lower_case });
        write_json(folder, "sentence_bert_config.json", &bert)?;
        let module = |(index, (path, name)): (usize, &(&str, &str))| {
            let kind = format!("sentence_transformers.models.{name}");
            serde_json::json!({ "idx": index, "name": index.to_string(), "path": path, "type": kind })
        };
        write_json(folder, MODULES_FILE, &modules.iter().enumerate().map(module).collect())
    }
}

/// Options of a Transformer part, and their file: under the names that versions of sentence-transformers gave it, in their order.
fn transformer_options(place: &Path) -> Result<(std::path::PathBuf, Value)> {
    for kind in ["bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"] {
        let path = place.join(format!("sentence_{kind}_config.json"));
        if let Some(options) = read_json(&path)? {
            return Ok((path, options));
        }
    }
    Ok((place.to_owned(), Value::Null))
}

/// What a folder's tokenizer says is the longest text, if the model could read a longer one.
fn model_max_length(folder: &Path) -> Result<Option<usize>> {
    let tokenizer = read_json(&folder.join("tokenizer_config.json"))?.unwrap_or_default();
    let readable = max_position_embeddings(folder)?;
    // The second is how older ones are written.
    let said = tokenizer["model_max_length"].as_u64().or(tokenizer["max_len"].as_u64());
    let length = said.filter(|length| (1..readable).contains(length));
    Ok(length.and_then(|length| usize::try_from(length).ok()))
}

/// Of the model in this folder, where its config says it.
fn max_position_embeddings(folder: &Path) -> Result<u64> {
    let model = read_json(&folder.join("config.json"))?.unwrap_or_default();
    let default = BertConfig::new(1).max_position_embeddings as u64;
    Ok(model["max_position_embeddings"].as_u64().unwrap_or(default))
}

fn write_json(folder: &Path, name: &str, value: &Value) -> Result<()> {
    let path = folder.join(name);
    let text = serde_json::to_string_pretty(value).map_err(std::io::Error::from).map_err(Error::io(&path))?;
    write_whole(&path, (text + "\n").as_bytes())
}

/// The older form has a switch for each kind, the newer a name.
fn pooling_of(config: &Value, path: &Path) -> Result<Pooling> {
    let named = |name: &str| match name {
        "mean" | "mean_tokens" => Some(Pooling::Mean),
        "cls" | "cls_token" => Some(Pooling::Cls),
        "max" | "max_tokens" => Some(Pooling::Max),
        _ => None,
    };
    let unsupported = |what: String| Error::Unsupported(format!("{}: {what}", path.display()));
    if let Some(name) = config["pooling_mode"].as_str() {
        return named(name).ok_or_else(|| unsupported(format!("pooling '{name}'; there are mean, cls and max")));
    }
    let switches = config.as_object().into_iter().flatten();
    let on: Vec<&str> = switches
        .filter(|(_, value)| value.as_bool() == Some(true))
        .filter_map(|(key, _)| key.strip_prefix("pooling_mode_"))
        .collect();
    match on[..] {
        [one] => named(one).ok_or_else(|| unsupported(format!("pooling '{one}'; there are mean, cls and max"))),
        [] => Err(Error::checkpoint(path, "no pooling_mode is on")),
        _ => Err(unsupported(format!("several poolings side by side ({})", on.join(", ")))),
    }
}

impl Model {
    /// One vector for each text. Lines of a text are joined by the separator token, as the sections of
    /// `prepare` are; all are of token type 0. A text without words is embedded by its special tokens.
    ///
    /// ```no_run
    /// # fn main() -> retto::Result<()> {
    /// let gpu = retto::Gpu::open_default()?;
    /// let model = retto::Model::open(&gpu, "all-MiniLM-L6-v2")?;
    /// let options = retto::EmbedOptions::open("all-MiniLM-L6-v2")?;
    /// let embeddings = model.embed(&["the rain in spain", "stays\nmainly in the plain"], &options)?;
    /// assert_eq!(embeddings.len(), 2);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::TooLong`] with `strict`; [`Error::InvalidArgument`] for a `max_seq_length` below 3 or beyond the model, or a text without a
    /// token; [`Error::BadTokenizer`] for a text it cannot represent; [`Error::NotFinite`]; GPU errors.
    pub fn embed<S: AsRef<str>>(&self, texts: &[S], options: &EmbedOptions) -> Result<Embeddings> {
        self.embed_with(texts, options, |_, _| ControlFlow::Continue(()))
    }

    /// [`Model::embed`], telling between passes how many texts are done, of how many, and ended by breaking; none is while they are made
    /// tokens of.
    ///
    /// # Errors
    /// As [`Model::embed`]; [`Error::Cancelled`].
    pub fn embed_with<S: AsRef<str>>(
        &self,
        texts: &[S],
        options: &EmbedOptions,
        mut observe: impl FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Embeddings> {
        let template = self.tokenizer.template()?;
        let longest = self.longest_embedded(options, SHORTEST.max(template.around() + 1))?;
        let mut truncated = 0;
        let mut encoded = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            // Also while texts are made tokens of.
            if index % ASKED == ASKED - 1 && observe(0, texts.len()).is_break() {
                return Err(Error::Cancelled);
            }
            let text = match options.do_lower_case {
                true => text.as_ref().to_lowercase().into(),
                false => std::borrow::Cow::Borrowed(text.as_ref()),
            };
            let (ids, tokens) = self.tokenizer.encode_section(&template, &text, longest)?;
            // Of a tokenizer without special tokens.
            if tokens == 0 {
                let reason = format!("text {index} has no token, and so no embedding");
                return Err(Error::InvalidArgument(reason));
            }
            if tokens > longest {
                if options.strict {
                    return Err(Error::TooLong { tokens, max: longest });
                }
                truncated += 1;
            }
            encoded.push(ids);
        }
        let examples: Vec<&[u32]> = encoded.iter().map(Vec::as_slice).collect();
        self.embed_all(&examples, options, truncated, &mut observe)
    }

    /// [`Model::embed`] for examples that are tokenized already, special tokens included: `do_lower_case` comes too late for
    /// them, and with `strict` it is an error that some were cut when they were. Of a token cache of sections there is a vector for
    /// each of them: of one that takes several examples, of the first, and it counts as cut.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for data made for longer texts or with another tokenizer than the model's; otherwise as [`Model::embed`].
    pub fn embed_dataset(&self, data: &Dataset, options: &EmbedOptions) -> Result<Embeddings> {
        self.embed_dataset_with(data, options, |_, _| ControlFlow::Continue(()))
    }

    /// [`Model::embed_dataset`], telling between passes how many vectors are done, of how many, and ended by breaking.
    ///
    /// # Errors
    /// As [`Model::embed_dataset`]; [`Error::Cancelled`].
    pub fn embed_dataset_with(
        &self,
        data: &Dataset,
        options: &EmbedOptions,
        mut observe: impl FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Embeddings> {
        let longest = self.longest_embedded(options, SHORTEST)?;
        data.check(&self.tokenizer, longest)?;
        if options.strict && data.truncated() > 0 {
            let reason = format!("{} lines are longer than the longest sequence", data.truncated());
            return Err(Error::InvalidArgument(reason));
        }
        let Some(sections) = data.sections() else {
            let examples: Vec<&[u32]> = (0..data.len()).map(|i| data.get(i)).collect();
            return self.embed_all(&examples, options, data.truncated(), &mut observe);
        };
        let longer = sections.iter().filter(|section| section.len() > 1).count();
        if options.strict && longer > 0 {
            let reason = format!("{longer} sections are longer than the longest sequence");
            return Err(Error::InvalidArgument(reason));
        }
        let firsts: Vec<&[u32]> = sections.iter().map(|section| data.get(section.start)).collect();
        self.embed_all(&firsts, options, data.truncated() + longer, &mut observe)
    }

    fn longest_embedded(&self, options: &EmbedOptions, shortest: usize) -> Result<usize> {
        let max = self.config().max_position_embeddings;
        match options.max_seq_length.unwrap_or(max) {
            length if length < shortest => {
                Err(Error::InvalidArgument(format!("max_seq_length is {length}; a text takes {shortest} tokens")))
            }
            length if length > max => {
                let reason = format!("max_seq_length is {length}, but this model reads at most {max} tokens");
                Err(Error::InvalidArgument(reason))
            }
            length => Ok(length),
        }
    }

    /// \[examples, hidden\], finite, of these examples of a dataset, whatever sections they are of. `told` hears between passes how many are done,
    /// of how many; nothing comes of it where that breaks.
    pub(crate) fn embed_examples(
        &self,
        data: &Dataset,
        examples: &[usize],
        options: &EmbedOptions,
        told: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Option<Vec<f32>>> {
        data.check(&self.tokenizer, self.longest_embedded(options, SHORTEST)?)?;
        let numbers = examples;
        let examples: Vec<&[u32]> = examples.iter().map(|&example| data.get(example)).collect();
        self.embed_encoded(&examples, options, told, &|at| numbers[at])
    }

    fn embed_all(
        &self,
        examples: &[&[u32]],
        options: &EmbedOptions,
        truncated: usize,
        told: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Embeddings> {
        let values = self.embed_encoded(examples, options, told, &|at| at)?.ok_or(Error::Cancelled)?;
        Ok(Embeddings { values, dimension: self.config().hidden_size, truncated })
    }

    fn embed_encoded(
        &self,
        examples: &[&[u32]],
        options: &EmbedOptions,
        told: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
        number: &dyn Fn(usize) -> usize,
    ) -> Result<Option<Vec<f32>>> {
        let (mut values, mut done) = (Vec::new(), 0);
        while done < examples.len() {
            if done > 0 && told(done, examples.len()).is_break() {
                return Ok(None);
            }
            let count = self.fits_one_pass(examples[done..].iter().map(|ids| ids.len()));
            let mut batch = PackedBatch::default();
            examples[done..done + count].iter().for_each(|ids| batch.push(ids));
            let vectors = self.embed_batch(&batch, options)?;
            if let Some(at) = vectors.iter().position(|value| !value.is_finite()) {
                let text = number(done + at / self.config().hidden_size);
                return Err(Error::not_finite(format!("the vector of text {text}")));
            }
            done += batch.sequences();
            values.extend(vectors);
        }
        Ok(Some(values))
    }

    fn embed_batch(&self, batch: &PackedBatch, options: &EmbedOptions) -> Result<Vec<f32>> {
        let mut pass = Pass::new(&self.gpu);
        let hidden_states = self.bert.encode(&mut pass, batch, options.pooling.wanted(&batch.cu_seqlens))?;
        let pooled = options.pooling.forward(&mut pass, &hidden_states, &batch.cu_seqlens, options.normalize)?;
        let download = pass.download(&pooled.vectors)?;
        pass.submit()?;
        download.wait(&self.gpu)
    }
}
