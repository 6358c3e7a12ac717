//! A model: BERT on a GPU with its tokenizer.

use std::path::Path;

use super::bert::{Bert, TrainOptions};
use super::checkpoint::{Checkpoint, CheckpointStore};
use super::config::BertConfig;
#[cfg(feature = "default-model")]
use super::config::CONFIG_FILE;
use super::dtype::Dtype;
use super::embedding_loss::EmbeddingObjective;
use super::lora::LoraConfig;
use super::mlm_head::{RowStats, mean_loss, stats_of};
use super::modules::transformer_folder;
use super::parameters::{ForeignSource, Gradients, InitialSource, Parameter};
use super::preload::Preloaded;
use super::save::FolderLock;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Pass, Tensor};
use crate::text::{PackedBatch, SHORTEST, Tokenizer, Triplets};

/// BERT's weights on a [`Gpu`], with the tokenizer they were trained with.
///
/// Immutable and `Send + Sync`: many threads may query one model. Training works on a copy ([`Trainer`](crate::Trainer)).
///
/// ```no_run
/// # fn main() -> retto::Result<()> {
/// let gpu = retto::Gpu::open_default()?;
/// let model = retto::Model::open(&gpu, "models/retto-tiny")?;
/// for fill in model.fill_mask("lipstick stains on the [MASK]", 5)?.remove(0) {
///     println!("{:.3}  {}", fill.score, fill.sequence);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Model {
    pub(crate) gpu: Gpu,
    pub(crate) bert: Bert,
    pub(crate) tokenizer: Tokenizer,
    /// Whether the head's values were trained, here or by whoever made the checkpoint.
    pub(crate) has_mlm_head: bool,
    /// The low-rank factors that stand beside the weights, and are not part of [`Model::parameter_shapes`].
    pub(crate) lora: Option<LoraConfig>,
    /// Whether it belongs to a trainer, which goes on to change it: then nothing that is trained there is shared.
    pub(crate) live: bool,
}

/// Values by checkpoint key.
pub type NamedValues = Vec<(String, Vec<f32>)>;

/// A file of the bundled model.
#[cfg(feature = "default-model")]
macro_rules! bundled {
    ($name:literal) => {
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/retto-tiny/", $name)).as_slice()
    };
}

/// Tokens of queries in one pass: bounds the workspace, whatever the number of texts.
const TOKENS_PER_PASS: usize = 8192;

impl Model {
    /// How many of these lengths, of one at least, go into one pass: as many as its workspaces have room for.
    pub(crate) fn fits_one_pass(&self, lengths: impl Iterator<Item = usize>) -> usize {
        let config = self.config();
        let widest = config.intermediate_size.max(3 * config.hidden_size) as u64;
        let limit = self.gpu.adapter().max_storage_buffer_binding_size.min(self.gpu.adapter().max_buffer_size);
        let most = TOKENS_PER_PASS.min(usize::try_from(limit / (4 * widest).max(1)).unwrap_or(usize::MAX));
        let mut tokens = 0;
        let fits = |length: &usize| {
            tokens += length;
            tokens <= most
        };
        lengths.take_while(fits).count().max(1)
    }
}

/// What the bundled model is called in errors.
#[cfg(feature = "default-model")]
const BUNDLED: &str = "(bundled) retto-tiny";

#[cfg(feature = "default-model")]
impl BertConfig {
    /// That of the model compiled into this crate.
    ///
    /// # Errors
    /// None that a released crate gives.
    pub fn open_default() -> Result<Self> {
        Self::parse(bundled!("config.json"), &Path::new(BUNDLED).join(CONFIG_FILE))
    }
}

#[cfg(feature = "default-model")]
impl Tokenizer {
    /// That of the model compiled into this crate.
    ///
    /// # Errors
    /// None that a released crate gives.
    pub fn open_default() -> Result<Self> {
        let files = [
            ("tokenizer.json", bundled!("tokenizer.json")),
            ("tokenizer_config.json", bundled!("tokenizer_config.json")),
        ];
        Self::from_files(Path::new(BUNDLED), files.map(|(name, bytes)| (name.into(), bytes.to_vec())).into())
    }
}

/// The seed of a head that a checkpoint lacks.
const FRESH_HEAD_SEED: u64 = 42;

impl Model {
    /// Opens a Hugging Face folder: `config.json`, the weights as `model.safetensors` or shards with an index, and
    /// `tokenizer.json` or `vocab.txt`; or the encoder of a folder in sentence-transformers' layout.
    ///
    /// The weights are memory-mapped, checked and uploaded as f32. An encoder without a masked-language-model head is opened
    /// with a fresh one, which can be trained but not queried: see [`Model::has_mlm_head`].
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::BadCheckpoint`], [`Error::BadTokenizer`] and [`Error::Unsupported`] name the file at fault;
    /// [`Error::DeviceLimit`] and [`Error::OutOfMemory`] say what the adapter lacks.
    pub fn open(gpu: &Gpu, folder: impl AsRef<Path>) -> Result<Self> {
        Self::open_with_dtype(gpu, folder, Dtype::Float32)
    }

    /// [`Model::open`] with matrices of this type: as [`Model::to_dtype`] makes them, for queries alone where it is not float32, and
    /// without the memory for more than a few of them in f32.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn open_with_dtype(gpu: &Gpu, folder: impl AsRef<Path>, dtype: Dtype) -> Result<Self> {
        let folder = &transformer_folder(folder.as_ref())?;
        let _unchanged = FolderLock::shared(folder)?;
        let config = BertConfig::open(folder)?;
        let tokenizer = Tokenizer::open(folder)?;
        Self::load(gpu, config, tokenizer, &Checkpoint::open(folder)?, folder, dtype)
    }

    /// Opens the model that is compiled into this crate with the feature `default-model`.
    ///
    /// # Errors
    /// As [`Model::open`], for what the adapter lacks.
    #[cfg(feature = "default-model")]
    pub fn open_default(gpu: &Gpu) -> Result<Self> {
        let folder = Path::new(BUNDLED);
        let (config, tokenizer) = (BertConfig::open_default()?, Tokenizer::open_default()?);
        let checkpoint = Checkpoint::from_static("(bundled) model.safetensors", bundled!("model.safetensors"))?;
        Self::load(gpu, config, tokenizer, &checkpoint, folder, Dtype::Float32)
    }

    fn load(
        gpu: &Gpu,
        mut config: BertConfig,
        tokenizer: Tokenizer,
        checkpoint: &Checkpoint,
        folder: &Path,
        dtype: Dtype,
    ) -> Result<Self> {
        tokenizer.check_vocabulary(config.vocab_size)?;
        checkpoint.check_layers(&config)?;
        let has_mlm_head = checkpoint.has_mlm_head();
        if has_mlm_head && !config.tie_word_embeddings && !checkpoint.is_untied(&config) {
            let reason = "cls.predictions.decoder.weight is missing, and config.json says tie_word_embeddings false";
            return Err(Error::checkpoint(folder, reason));
        }
        config.tie_word_embeddings = !checkpoint.is_untied(&config);
        let fresh = InitialSource { seed: FRESH_HEAD_SEED, range: config.initializer_range };
        let fresh_head = (!has_mlm_head).then_some(fresh);
        let store = CheckpointStore { gpu, checkpoint, fresh_head, dtype };
        let bert = Bert::new_for_queries(gpu, &config, dtype, has_mlm_head, || {
            let mut loaded = Preloaded::new(gpu, &config, &store, dtype == Dtype::Float32)?;
            Bert::new(gpu, config.clone(), &mut loaded)
        })?;
        gpu.flush()?;
        Ok(Self { gpu: gpu.clone(), bert, tokenizer, has_mlm_head, lora: None, live: false })
    }

    /// A randomly initialised model: weights normal with `config.initializer_range`, biases 0, LayerNorms 1, as
    /// transformers initialises BERT. Ready for training from nothing.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where the config is not that of a BERT; [`Error::BadTokenizer`] where the vocabulary is
    /// larger than the config's; otherwise what the adapter lacks.
    pub fn init(gpu: &Gpu, config: BertConfig, tokenizer: Tokenizer, seed: u64) -> Result<Self> {
        config.validate()?;
        if config.max_position_embeddings < SHORTEST {
            let length = config.max_position_embeddings;
            let reason = format!("max_position_embeddings is {length}; a text takes {SHORTEST}: [CLS], a word, [SEP]");
            return Err(Error::InvalidArgument(reason));
        }
        tokenizer.check_vocabulary(config.vocab_size)?;
        let mut source = InitialSource { seed, range: config.initializer_range };
        let bert = Bert::new(gpu, config, &mut source)?;
        Ok(Self { gpu: gpu.clone(), bert, tokenizer, has_mlm_head: true, lora: None, live: false })
    }

    /// A copy on the same GPU: with buffers of its own for what will be trained, or is being trained, sharing the others. A low-rank adapter
    /// has become part of the weights.
    pub(crate) fn duplicate(&self, is_trainable: &dyn Fn(&str) -> bool) -> Result<Self> {
        let bert = match self.lora {
            Some(_) => self.bert.merged(&self.gpu, self.live)?.duplicate(&self.gpu, is_trainable, false)?,
            None => self.bert.duplicate(&self.gpu, is_trainable, self.live)?,
        };
        Ok(self.with_network(bert, None))
    }

    /// The same model on another GPU. A low-rank adapter has become part of the weights.
    pub(crate) fn on(&self, gpu: &Gpu) -> Result<Self> {
        if self.lora.is_some() {
            return self.merge()?.on(gpu);
        }
        let mut source = ForeignSource { from: &self.gpu, parameters: self.bert.parameters() };
        let bert = Bert::new(gpu, self.config().clone(), &mut source)?;
        gpu.flush()?;
        Ok(Self { gpu: gpu.clone(), ..self.with_network(bert, None) })
    }

    /// Another network in this one's place.
    pub(crate) fn with_network(&self, bert: Bert, lora: Option<LoraConfig>) -> Self {
        let (gpu, tokenizer) = (self.gpu.clone(), self.tokenizer.clone());
        Self { gpu, bert, tokenizer, has_mlm_head: self.has_mlm_head, lora, live: false }
    }

    /// Where config, tokenizer and weights of a model lie: in the folder itself, or in sentence-transformers' layout maybe in one within.
    ///
    /// # Errors
    /// [`Error::BadCheckpoint`] and [`Error::Io`] for a list of modules that cannot be read.
    pub fn encoder_folder(folder: impl AsRef<Path>) -> Result<std::path::PathBuf> {
        transformer_folder(folder.as_ref())
    }

    /// The device the weights are on.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Sizes and options.
    pub fn config(&self) -> &BertConfig {
        &self.bert.config
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Whether the masked-language-model head can be used. `false` for an encoder whose checkpoint had none, until trained:
    /// queries then answer [`Error::NoMlmHead`].
    pub fn has_mlm_head(&self) -> bool {
        self.has_mlm_head
    }

    /// Trainable values, counted once where they are shared.
    pub fn num_parameters(&self) -> usize {
        self.bert.all_parameters().iter().map(|parameter| parameter.value.len()).sum()
    }

    /// The checkpoint's keys in a fixed order, those of a stacked parameter one after another, with their shapes.
    pub fn parameter_shapes(&self) -> Vec<(String, Vec<usize>)> {
        self.bert.parameters().into_iter().flat_map(Parameter::parts).collect()
    }

    /// The encoder's output (`last_hidden_state`): row-major f32 of shape \[tokens, hidden_size\].
    ///
    /// # Errors
    /// [`Error::TooLong`] and [`Error::InvalidArgument`] for a batch that does not fit the model; GPU errors.
    pub fn hidden_states(&self, batch: &PackedBatch) -> Result<Vec<f32>> {
        self.rows(batch, None)
    }

    /// The same, or only `wanted` rows of it, ascending, each once.
    pub(crate) fn rows(&self, batch: &PackedBatch, wanted: Option<&[u32]>) -> Result<Vec<f32>> {
        let mut pass = Pass::new(&self.gpu);
        let hidden_states = self.bert.encode(&mut pass, batch, wanted)?;
        let download = pass.download(&hidden_states)?;
        pass.submit()?;
        download.wait(&self.gpu)
    }

    /// Logits of the batch's masked rows: row-major f32 of shape \[masked rows, vocab_size\].
    ///
    /// # Errors
    /// [`Error::NoMlmHead`]; otherwise as [`Model::hidden_states`].
    pub fn logits(&self, batch: &PackedBatch) -> Result<Vec<f32>> {
        self.require_mlm_head()?;
        let mut pass = Pass::new(&self.gpu);
        let mut downloads = Vec::new();
        self.bert.logits(&mut pass, batch, |pass, _, logits| {
            downloads.push(pass.download(logits)?);
            Ok(())
        })?;
        pass.submit()?;
        let mut logits = Vec::with_capacity(batch.masked_rows.len() * self.config().vocab_size);
        for download in downloads {
            logits.extend(download.wait::<f32>(&self.gpu)?);
        }
        Ok(logits)
    }

    /// The mean cross entropy of the batch's labels in nats, and its gradient for every parameter under its checkpoint key,
    /// shaped and ordered as [`Model::parameter_shapes`] says: of weights that a low-rank adapter has changed, where there is one. For
    /// checking; training keeps gradients on the GPU.
    ///
    /// # Errors
    /// As [`Model::hidden_states`].
    pub fn loss_and_gradients(&self, batch: &PackedBatch) -> Result<(f32, NamedValues)> {
        self.with_all_trained(|model| model.loss_and_gradients_with(batch, TrainOptions::default()))
    }

    /// What is asked of this model, or of a copy whose parameters have gradients, all of them.
    fn with_all_trained<T>(&self, ask: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        self.require_float32("taking gradients")?;
        match self.lora.is_none() && self.bert.parameters().iter().all(|parameter| parameter.trainable) {
            true => ask(self),
            false => ask(&self.duplicate(&|_| true)?),
        }
    }

    /// [`Model::loss_and_gradients`], of the parameters that are trained, low-rank factors included.
    pub(crate) fn loss_and_gradients_with(
        &self,
        batch: &PackedBatch,
        options: TrainOptions,
    ) -> Result<(f32, NamedValues)> {
        self.mean_and_gradients(|pass, gradients| {
            self.bert.train(pass, gradients, batch, batch.labels.len(), options, &mut |_, _| Ok(()))
        })
    }

    /// The mean loss of all triplets as one batch, as the first epoch of seed 0 draws them, and its gradient, as
    /// [`Model::loss_and_gradients`] gives that of labels: nothing for the masked-language-model head. For checking.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for pairs without negatives where the loss takes them; as [`Model::hidden_states`].
    pub fn embedding_loss_and_gradients(
        &self,
        data: &Triplets,
        objective: &EmbeddingObjective,
    ) -> Result<(f32, NamedValues)> {
        objective.loss.check(data)?;
        let all: Vec<usize> = (0..data.len()).collect();
        let batch = data.batch(&all, 0, 0, objective.loss.wants_negatives());
        let train = |model: &Self| {
            model.mean_and_gradients(|pass, gradients| {
                model.bert.train_embeddings(
                    pass,
                    gradients,
                    &batch,
                    objective,
                    batch.triplets,
                    TrainOptions::default(),
                    &mut |_, _| Ok(()),
                )
            })
        };
        self.with_all_trained(train)
    }

    /// The mean of the losses that `train` computes, and the gradients it adds up, of the parameters that are trained.
    pub(crate) fn mean_and_gradients(
        &self,
        train: impl FnOnce(&mut Pass, &Gradients) -> Result<Tensor>,
    ) -> Result<(f32, NamedValues)> {
        self.require_float32("taking gradients")?;
        let gradients = Gradients::new(&self.gpu, &self.bert.all_parameters())?;
        let parameters = self.bert.trained_parameters();
        let mut pass = Pass::new(&self.gpu);
        gradients.clear(&mut pass);
        let stats = train(&mut pass, &gradients)?;
        let stats = pass.download(&stats)?;
        let downloads = parameters.iter().filter_map(|parameter| gradients.of(parameter));
        let downloads = downloads.map(|gradient| pass.download(gradient));
        let downloads = downloads.collect::<Result<Vec<_>>>()?;
        pass.submit()?;
        let stats = stats.wait::<f32>(&self.gpu)?;
        let mut named = Vec::new();
        for (parameter, download) in parameters.iter().zip(downloads) {
            let values: Vec<f32> = download.wait(&self.gpu)?;
            let len = values.len() / parameter.keys.len();
            named.extend(parameter.keys.iter().cloned().zip(values.chunks(len).map(<[f32]>::to_vec)));
        }
        Ok((mean_loss(stats_of(&stats)), named))
    }

    /// The values of one parameter, by its checkpoint key: row-major, shaped as [`Model::parameter_shapes`] says.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a key this model does not have; [`Error::Unsupported`] after [`Model::to_dtype`]; GPU errors.
    pub fn parameter(&self, key: &str) -> Result<Vec<f32>> {
        for parameter in self.bert.parameters() {
            let Some(part) = parameter.keys.iter().position(|name| name == key) else { continue };
            self.require_float32("reading parameters")?;
            let mut pass = Pass::new(&self.gpu);
            let download = pass.download(&parameter.value)?;
            pass.submit()?;
            let values: Vec<f32> = download.wait(&self.gpu)?;
            let len = values.len() / parameter.keys.len();
            return Ok(values[part * len..(part + 1) * len].to_vec());
        }
        Err(Error::InvalidArgument(format!("this model has no parameter '{key}'")))
    }

    /// Loss and rank of each of the batch's labels.
    pub(crate) fn score(&self, batch: &PackedBatch) -> Result<Vec<RowStats>> {
        self.require_mlm_head()?;
        if batch.labels.is_empty() && batch.masked_rows.is_empty() {
            return Ok(Vec::new());
        }
        let mut pass = Pass::new(&self.gpu);
        let stats = self.bert.score(&mut pass, batch)?;
        let download = pass.download(&stats)?;
        pass.submit()?;
        let stats = stats_of(&download.wait::<f32>(&self.gpu)?).to_vec();
        // A rank among numbers that are none is the first.
        match stats.iter().all(|row| row.loss.is_finite()) {
            true => Ok(stats),
            false => Err(Error::not_finite("the loss of a blank")),
        }
    }

    pub(crate) fn require_mlm_head(&self) -> Result<()> {
        if self.has_mlm_head { Ok(()) } else { Err(Error::NoMlmHead) }
    }
}
