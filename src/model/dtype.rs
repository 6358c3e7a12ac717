//! Models whose weights take less memory, for queries.

use super::bert::Bert;
use super::open::Model;
use super::parameters::{CopySource, Source, Spec};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Packing, Tensor};
use crate::ops::pack::pack;

/// What a model's weights are made of. Whatever they are, activations and sums are f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dtype {
    /// Four bytes a weight, as training needs them.
    #[default]
    Float32,
    /// Two bytes a weight, rounded to eleven bits.
    Float16,
    /// One byte a weight, from -127 to 127, and a scale for each row of a matrix.
    Int8,
}

impl Dtype {
    pub(super) fn packing(self) -> Option<Packing> {
        match self {
            Self::Float32 => None,
            Self::Float16 => Some(Packing::Float16),
            Self::Int8 => Some(Packing::Int8),
        }
    }

    /// What stands for a parameter in f32 that goes by this key.
    pub(super) fn convert(self, gpu: &Gpu, value: Tensor, key: &str) -> Result<Tensor> {
        let Some(packing) = self.packing().filter(|_| is_matrix(key)) else { return Ok(value) };
        let packed = pack(gpu, &value, packing, key)?;
        // Not all matrices are there in both types at the same time.
        drop(value);
        gpu.wait()?;
        Ok(packed)
    }
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.packing() {
            None => f.write_str("float32"),
            Some(packing) => packing.fmt(f),
        }
    }
}

impl std::str::FromStr for Dtype {
    type Err = Error;

    /// As torch calls them.
    fn from_str(name: &str) -> Result<Self> {
        let all = [Self::Float32, Self::Float16, Self::Int8];
        all.into_iter()
            .find(|dtype| dtype.to_string() == name)
            .ok_or_else(|| Error::InvalidArgument(format!("dtype is '{name}'; it must be float32, float16 or int8")))
    }
}

impl Model {
    /// A copy for queries whose matrices (those of the layers and of the head, and the word embeddings) are of this type, and take
    /// half or a quarter of the GPU's memory; in float32 a copy like any model. It needs no f16 of the adapter. A low-rank adapter has become part
    /// of the weights. This one may be dropped: its memory is then free.
    ///
    /// In float16 and int8 the copy fills, scores, embeds and evaluates; to train or save it, and to read its parameters, is
    /// [`Error::Unsupported`].
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a copy of a copy with another type; [`Error::OutOfMemory`] and other GPU errors.
    pub fn to_dtype(&self, dtype: Dtype) -> Result<Self> {
        if self.lora.is_some() {
            return self.merge()?.to_dtype(dtype);
        }
        let own = self.dtype();
        if own != dtype && own != Dtype::Float32 {
            return Err(Error::Unsupported(format!("weights in {own} as {dtype}: take the model in float32")));
        }
        if dtype == Dtype::Float32 {
            return self.duplicate(&|_| true);
        }
        let parameters = self.bert.parameters();
        // What a trainer may go on to change has to be copied. What is packed already never changes; what is about to be is copied by that.
        let is_copied = |key: &str| own == Dtype::Float32 && !is_matrix(key);
        let mut source = CopySource::new(&self.gpu, parameters, &is_copied, false)?;
        let config = self.config().clone();
        let bert = match own == dtype {
            true => Bert::new(&self.gpu, config.clone(), &mut source)?,
            false => {
                let mut source = PackSource { source: &mut source, dtype };
                let build = || Bert::new(&self.gpu, config.clone(), &mut source);
                Bert::new_for_queries(&self.gpu, &config, dtype, self.has_mlm_head, build)?
            }
        };
        self.gpu.flush()?;
        Ok(self.with_network(bert, None))
    }

    pub(crate) fn packing(&self) -> Option<Packing> {
        self.bert.parameters().iter().find_map(|parameter| parameter.value.packing())
    }

    /// What its weights are made of.
    pub fn dtype(&self) -> Dtype {
        match self.packing() {
            None => Dtype::Float32,
            Some(Packing::Float16) => Dtype::Float16,
            Some(Packing::Int8) => Dtype::Int8,
        }
    }

    /// Refuses what needs weights as they are in a checkpoint.
    pub(crate) fn require_float32(&self, what: &str) -> Result<()> {
        match self.dtype() {
            Dtype::Float32 => Ok(()),
            dtype => Err(Error::Unsupported(format!(
                "{what} with weights in {dtype}, which are for queries alone: take the model in float32"
            ))),
        }
    }
}

/// Whether a parameter is one of those that GEMMs multiply by, or the table of words, by which the decoder may do so. The other tables
/// are small.
fn is_matrix(key: &str) -> bool {
    let others = ["position_embeddings.weight", "token_type_embeddings.weight", "LayerNorm.weight"];
    key.ends_with(".weight") && !others.iter().any(|name| key.ends_with(name))
}

/// The values of another source, matrices packed.
struct PackSource<'s> {
    source: &'s mut dyn Source,
    dtype: Dtype,
}

impl Source for PackSource<'_> {
    fn load(&mut self, gpu: &Gpu, spec: &Spec, index: usize) -> Result<Tensor> {
        self.dtype.convert(gpu, self.source.load(gpu, spec, index)?, &spec.keys[0])
    }

    fn is_trainable(&self, _keys: &[String]) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Pass;
    use crate::model::bert::tests::random_model;
    use crate::model::{BertConfig, HiddenAct};
    use crate::ops::pack::tests::{unpacked, words};
    use crate::text::PackedBatch;

    fn download(gpu: &Gpu, tensor: &Tensor) -> Vec<f32> {
        let mut pass = Pass::new(gpu);
        let download = pass.download(tensor).unwrap();
        pass.submit().unwrap();
        download.wait(gpu).unwrap()
    }

    /// The model in f32 whose matrices are what the packed ones stand for.
    fn rounded(model: &Model, packing: Packing) -> Model {
        let rounded = model.duplicate(&|_| true).unwrap();
        for (own, parameter) in model.bert.parameters().into_iter().zip(rounded.bert.parameters()) {
            let shape = own.value.shape().to_vec();
            let small = own.keys[0].contains("position_emb") || own.keys[0].contains("token_type_emb");
            if let ([rows, columns], false) = (shape.as_slice(), small) {
                let shape = [*rows, *columns];
                let words = words(&model.gpu, &download(&model.gpu, &own.value), shape, packing);
                let values: Vec<f32> = unpacked(&words, shape, packing).iter().map(|&x| x as f32).collect();
                parameter.value.write(&model.gpu, 0, &values).unwrap();
            }
        }
        rounded
    }

    #[test]
    fn a_packed_model_is_the_one_in_f32_with_its_rounded_weights() {
        let adjusts: [fn(&mut BertConfig); 3] = [
            |_| (),
            // Sizes that are no multiple of anything.
            |config| (config.hidden_size, config.intermediate_size) = (21, 37),
            |config| {
                config.hidden_act = HiddenAct::Relu;
                config.tie_word_embeddings = false;
            },
        ];
        let mut batch = PackedBatch::default();
        batch.push_masked(&[2, 7, 4, 9, 11, 20, 3], &[(2, 8), (4, 11)]);
        for length in [3, 40] {
            let ids: Vec<u32> = [2].into_iter().chain((5..length).map(|i| i % 40 + 5)).chain([4, 3]).collect();
            batch.push_masked(&ids, &[(ids.len() as u32 - 2, 9)]);
        }
        for (which, adjust) in adjusts.into_iter().enumerate() {
            let model = random_model(adjust);
            for dtype in [Dtype::Float16, Dtype::Int8] {
                let packed = model.to_dtype(dtype).unwrap();
                assert_eq!((packed.dtype(), model.dtype()), (dtype, Dtype::Float32));
                assert_eq!(packed.num_parameters(), model.num_parameters());
                assert_eq!(packed.parameter_shapes(), model.parameter_shapes());
                let rounded = rounded(&model, dtype.packing().unwrap());
                let mut blanks = batch.clone();
                blanks.labels.clear();
                let [exact, want, got] = [&model, &rounded, &packed].map(|model| model.logits(&blanks).unwrap());
                let largest = want.iter().fold(0f32, |largest, x| largest.max(x.abs()));
                let far = |a: &[f32], b: &[f32]| a.iter().zip(b).fold(0f32, |far, (a, b)| far.max((a - b).abs()));
                assert!(far(&got, &want) < 1e-5 * largest, "{which} {dtype}: {} of {largest}", far(&got, &want));
                // And it is another model than the exact one.
                assert!(far(&got, &exact) > 1e-4 * largest, "{which} {dtype}");
                let (scored, wanted) = (packed.score(&batch).unwrap(), rounded.score(&batch).unwrap());
                assert!(
                    scored.iter().zip(&wanted).all(|(a, b)| (a.loss - b.loss).abs() < 1e-4),
                    "{scored:?} {wanted:?}"
                );
            }
        }
    }
}
