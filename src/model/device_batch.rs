//! A batch on the GPU: its ids, what attention and dropout need of it, and what is wanted of the encoder's output.

use crate::error::Result;
use crate::gpu::{Pass, Tensor};
use crate::ops::dropout::{self, Dropout};
use crate::ops::{attention, rows};
use crate::text::PackedBatch;

/// One of the network's dropouts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Site {
    pub(crate) number: u32,
    pub(crate) probability: f64,
}

/// A batch's ids on the GPU.
pub(crate) struct DeviceBatch {
    /// \[3, tokens\]: input_ids, position_ids and token_type_ids
    pub(crate) ids: Tensor,
    /// The attention's work list.
    pub(crate) blocks: attention::Blocks,
    /// Of all tokens.
    pub(crate) dropout: DropoutKeys,
    /// What the encoder gives, where that is not all of it.
    pub(crate) wanted: Option<Wanted>,
}

/// What dropout draws from, u32 \[rows\]: a random number for each. `None` where nothing is dropped.
pub(crate) struct DropoutKeys(Option<Tensor>);

/// Rows of the encoder's output that are wanted: behind its attention, the last layer computes only these.
pub(crate) struct Wanted {
    /// u32, ascending, each once.
    rows: Tensor,
    /// Of these rows: what is dropped of a token does not depend on what else is wanted.
    dropout: DropoutKeys,
}

impl DeviceBatch {
    /// For heads of this size. Of the encoder's output only `wanted` rows are computed, ascending, each once, where there are any.
    pub(crate) fn new(
        pass: &mut Pass,
        head_size: usize,
        batch: &PackedBatch,
        dropout_keys: Option<&[u32]>,
        wanted: Option<&[u32]>,
    ) -> Result<Self> {
        let tokens = batch.input_ids.len();
        let way = attention::Way::of(pass.gpu(), head_size);
        Ok(Self {
            ids: pass
                .upload(&[3, tokens], &[&batch.input_ids[..], &batch.position_ids, &batch.token_type_ids].concat())?,
            blocks: attention::Blocks::upload(pass, way, &batch.cu_seqlens)?,
            dropout: DropoutKeys::upload(pass, dropout_keys)?,
            wanted: match wanted {
                Some(rows) if !rows.is_empty() && rows.len() < tokens => Some(Wanted::new(pass, rows, dropout_keys)?),
                _ => None,
            },
        })
    }

    /// What dropout draws from behind the attention: of the wanted rows, or of all tokens.
    pub(crate) fn dropout_of<'b>(&'b self, wanted: Option<&'b Wanted>) -> &'b DropoutKeys {
        wanted.map_or(&self.dropout, |wanted| &wanted.dropout)
    }
}

impl DropoutKeys {
    fn upload(pass: &mut Pass, keys: Option<&[u32]>) -> Result<Self> {
        Ok(Self(keys.map(|keys| pass.upload(&[keys.len()], keys)).transpose()?))
    }

    /// One of the network's dropouts, where there is any.
    pub(crate) fn at(&self, site: Site) -> Option<Dropout<'_>> {
        let keys = self.0.as_ref().filter(|_| site.probability > 0.0)?;
        Some(Dropout { keys, site: site.number, probability: site.probability })
    }

    /// x, with some of it dropped where there is dropout; of a gradient, that of what was dropped from.
    pub(crate) fn drop_some(&self, pass: &mut Pass, site: Site, x: Tensor) -> Result<Tensor> {
        self.at(site).map_or(Ok(x.clone()), |dropout| dropout::apply(pass, dropout, &x))
    }
}

impl Wanted {
    fn new(pass: &mut Pass, rows: &[u32], dropout_keys: Option<&[u32]>) -> Result<Self> {
        let keys = dropout_keys.map(|keys| rows.iter().map(|&row| keys[row as usize]).collect::<Vec<_>>());
        Ok(Self { rows: pass.upload(&[rows.len()], rows)?, dropout: DropoutKeys::upload(pass, keys.as_deref())? })
    }

    /// Of each x\[tokens, columns\] the wanted rows.
    pub(crate) fn pick(&self, pass: &mut Pass, x: [&Tensor; 2]) -> Result<[Tensor; 2]> {
        rows::gather_two(pass, x, &self.rows)
    }

    /// The gradient of what [`Wanted::pick`] was given, so many tokens: zero but for these rows.
    pub(crate) fn put_back(&self, pass: &mut Pass, dpicked: &Tensor, tokens: usize) -> Result<Tensor> {
        let dx = pass.alloc(&[tokens, dpicked.columns()])?;
        pass.clear(&dx);
        rows::scatter(pass, dpicked, &self.rows, &dx)?;
        Ok(dx)
    }
}
