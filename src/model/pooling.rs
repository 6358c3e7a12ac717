//! One vector for each sequence, from those of its tokens.

use crate::error::Result;
use crate::gpu::{Pass, Tensor};
use crate::ops::pool::{self, Kind};

/// How the vectors of a text's tokens become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Pooling {
    /// Their mean, special tokens included, as in sentence-transformers.
    #[default]
    Mean,
    /// That of the first token, \[CLS\].
    Cls,
    /// The largest value of each column.
    Max,
}

impl Pooling {
    /// How it is computed; `None` where the wanted rows are the vectors.
    fn kind(self) -> Option<Kind> {
        match self {
            Self::Mean => Some(Kind::Mean),
            Self::Cls => None,
            Self::Max => Some(Kind::Max),
        }
    }

    /// Rows of the encoder's output that it takes, where these are not all.
    pub(crate) fn wanted(self, cu_seqlens: &[u32]) -> Option<&[u32]> {
        match self {
            Self::Cls => Some(&cu_seqlens[..cu_seqlens.len() - 1]),
            Self::Mean | Self::Max => None,
        }
    }

    /// hidden_states\[wanted, hidden\] to \[sequences, hidden\], scaled to length 1 where `normalize` says so.
    pub(crate) fn forward(
        self,
        pass: &mut Pass,
        hidden_states: &Tensor,
        cu_seqlens: &[u32],
        normalize: bool,
    ) -> Result<Pooled> {
        let unscaled = match self.kind() {
            Some(kind) => pool::pool(pass, kind, hidden_states, cu_seqlens)?,
            None => hidden_states.clone(),
        };
        let vectors = if normalize { pool::normalize(pass, &unscaled)? } else { unscaled.clone() };
        Ok(Pooled { vectors, unscaled: normalize.then_some(unscaled) })
    }

    /// The gradient by hidden_states, from that by the vectors; written.
    pub(crate) fn backward(
        self,
        pass: &mut Pass,
        hidden_states: &Tensor,
        cu_seqlens: &[u32],
        pooled: &Pooled,
        dvectors: &Tensor,
    ) -> Result<Tensor> {
        let dvectors = match &pooled.unscaled {
            Some(unscaled) => pool::normalize_backward(pass, unscaled, dvectors)?,
            None => dvectors.clone(),
        };
        match self.kind() {
            Some(kind) => pool::pool_backward(pass, kind, hidden_states, cu_seqlens, &dvectors),
            None => Ok(dvectors),
        }
    }
}

/// What [`Pooling::forward`] gives.
pub(crate) struct Pooled {
    /// \[sequences, hidden\]
    pub(crate) vectors: Tensor,
    /// The vectors before they were scaled to length 1, where they were.
    unscaled: Option<Tensor>,
}
