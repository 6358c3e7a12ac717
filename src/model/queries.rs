//! What queries of a network need besides its weights: pipelines, made while those are read.

use super::bert::Bert;
use super::config::BertConfig;
use super::dtype::Dtype;
use crate::error::Result;
use crate::gpu::{Gpu, Packing, SEAL};
use crate::ops;
use crate::ops::gemm_form::{Form, Sizes};
use crate::ops::tilings::{Inputs, choose};

/// A short text, and its blank: what a batch of them takes may be long to compile, and is not wanted by many.
const SHORT: &[u32] = &[12, 1];

impl Bert {
    /// Whether sums may be in parts, of fills and, behind them, of embeddings; without a head, of embeddings alone.
    pub(crate) fn sums_of(fills: bool) -> &'static [bool] {
        if fills { &[true, false] } else { &[false] }
    }

    /// The network as `build` makes it, its matrices of this type; what queries of it take is compiled meanwhile: fills, or, where it has no
    /// head for these, embeddings.
    pub(super) fn new_for_queries(
        gpu: &Gpu,
        config: &BertConfig,
        dtype: Dtype,
        fills: bool,
        build: impl FnOnce() -> Result<Self>,
    ) -> Result<Self> {
        std::thread::scope(|threads| {
            let ahead = std::thread::Builder::new().name("retto-compile".into());
            let sums = &Self::sums_of(fills)[..1];
            let ahead =
                ahead.spawn_scoped(threads, || Self::compile_ahead(gpu, config, dtype.packing(), SHORT, sums, false));
            let bert = build();
            // Whatever went wrong there comes up again where the pipelines are used, and is told then.
            let _ = ahead.map(std::thread::ScopedJoinHandle::join);
            bert
        })
    }

    /// Makes the pipelines that queries of so many tokens take: beside an upload of weights, the first query need not wait for them.
    /// `sums`: whether those of GEMMs may be in parts, as [`Bert::sums_of`] says. `wholly`, also where a driver puts that off: then
    /// what is submitted next waits.
    pub(crate) fn compile_ahead(
        gpu: &Gpu,
        config: &BertConfig,
        packing: Option<Packing>,
        lengths: &[u32],
        sums: &[bool],
        wholly: bool,
    ) {
        let inputs = packing.map_or(Inputs::Single, Inputs::Packed);
        let (hidden, wide) = (config.hidden_size as u32, config.intermediate_size as u32);
        let attention = ops::attention::Way::of(gpu, config.head_size());
        let activation = config.hidden_act.op();
        let fused = ops::linear::fuses(gpu).then_some(activation);
        let others = [
            (&ops::embedding::FORWARD_NORMALIZED, ops::embedding::variant(packing)),
            (&ops::layer_norm::FORWARD, 0),
            (&ops::layer_norm::FORWARD, 1),
            (&attention.kernels().forward, attention.variant(false)),
            (&ops::rows::GATHER_TWO, 0),
            (&ops::top_k::TOP_K, 0),
            (&SEAL, 0),
        ];
        if fused.is_none() {
            gpu.compile_ahead(&ops::activation::FORWARD, activation as usize);
        }
        let mut made = Vec::new();
        for &m in lengths {
            let activated = Form::linear(fused);
            for &split_sums in sums {
                for (form, n, k) in [
                    (Form::Linear, hidden, hidden),
                    (activated, hidden, hidden),
                    (activated, wide, hidden),
                    (Form::Linear, hidden, wide),
                ] {
                    let (tiling, kernel) = choose(gpu, form, Sizes { m, n, k }, inputs, split_sums);
                    if !made.contains(&(tiling.name, form)) {
                        made.push((tiling.name, form));
                        ops::gemm::compile_ahead(gpu, tiling, kernel, form, wholly);
                    }
                }
            }
        }
        others.into_iter().for_each(|(kernel, variant)| gpu.compile_ahead(kernel, variant));
    }
}
