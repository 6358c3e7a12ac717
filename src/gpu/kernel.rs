//! WGSL plus override values, compiled once per `Gpu`.

use std::borrow::Cow;
use std::sync::Arc;

use super::adapter::Adapter;
use super::cache::PipelineCache;
use super::cpu;
use super::device::{Gpu, PipelineKey, lock};
use super::waiting::now;
use crate::error::Result;

/// Values of a shader's `override` declarations.
pub(crate) type Constants = &'static [(&'static str, f64)];

/// One entry point of one shader file, and every combination of overrides it is used with.
pub(crate) struct Kernel {
    /// The file's stem in `shaders/`.
    pub(crate) file: &'static str,
    pub(crate) source: &'static str,
    pub(crate) entry: &'static str,
    /// All combinations in use: what is not listed here cannot be dispatched, and what is listed is tested.
    pub(crate) variants: &'static [Constants],
    /// Whether it declares THREADS, the threads of a workgroup, which is [`VECTOR`] on software adapters: there a workgroup is
    /// a task of one core and each vector of it is begun, and waited for at barriers, by itself.
    pub(crate) narrows: bool,
    /// Whether it takes packed weights.
    pub(crate) packs: bool,
    /// The same with loads of 32 bits in place of 64, where that makes a difference to some adapters: see [`Style::in_words`].
    pub(crate) in_words: Option<&'static str>,
}

/// What depends on the adapter, not on what is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Style {
    /// Workgroups are one vector, where kernels can do with that: see [`Kernel::narrows`].
    pub(crate) narrow: bool,
    /// Nothing is loaded in more than 32 bits a lane, where kernels can do with that: [`Kernel::in_words`].
    pub(crate) in_words: bool,
    /// Numbers of f16 are read by integer operations. Kernels are not all run so: that the operations are right is a test of its own.
    pub(crate) in_integers: bool,
}

/// The one word of WGSL that takes an f16, which naga lets no kernel have where a software adapter's CPU knows none, whether or not it comes to it.
const HALVES: &str = "unpack2x16float";
const HALVES_IN_INTEGERS: &str = include_str!("../../shaders/unpack_half.wgsl");

impl Style {
    /// What suits an adapter.
    pub(super) fn of(adapter: &Adapter, has_halves: bool) -> Self {
        let narrow = adapter.is_software();
        Self { narrow, in_words: narrow && cpu::slows_down_in_512_bits(), in_integers: !has_halves }
    }

    /// The opposite in each respect that every adapter can do, which has to give the same results.
    #[cfg(test)]
    pub(crate) fn other(self) -> Self {
        Self { narrow: !self.narrow, in_words: !self.in_words, in_integers: true }
    }
}

/// Lanes of a software adapter's vector.
const VECTOR: f64 = 8.0;

/// The combination of a kernel without overrides.
pub(crate) const PLAIN: &[Constants] = &[&[]];

impl Kernel {
    pub(crate) const fn plain(file: &'static str, source: &'static str, entry: &'static str) -> Self {
        Self::new(file, source, entry, PLAIN)
    }

    pub(crate) const fn new(
        file: &'static str,
        source: &'static str,
        entry: &'static str,
        variants: &'static [Constants],
    ) -> Self {
        Self { file, source, entry, variants, narrows: false, packs: false, in_words: None }
    }

    /// The same, with workgroups of one vector on software adapters: see [`Kernel::narrows`].
    pub(crate) const fn narrowing(self) -> Self {
        Self { narrows: true, ..self }
    }

    /// The same, for packed weights.
    pub(crate) const fn packing(self) -> Self {
        Self { packs: true, ..self }
    }

    /// The same, with this source where loads are of 32 bits.
    pub(crate) const fn in_words(self, source: &'static str) -> Self {
        Self { in_words: Some(source), ..self }
    }

    /// What its workgroups are narrowed by, on a software adapter.
    pub(crate) fn narrowed(&self) -> Option<(&'static str, f64)> {
        self.narrows.then_some(("THREADS", VECTOR))
    }

    /// Of a style what makes a difference to this kernel.
    fn style(&self, style: Style) -> Style {
        Style {
            narrow: style.narrow && self.narrows,
            in_words: style.in_words && self.in_words.is_some(),
            in_integers: style.in_integers && self.takes_halves(),
        }
    }

    /// Whether it reads numbers of f16 outside of types.
    fn takes_halves(&self) -> bool {
        self.source.contains(HALVES)
    }

    /// What is compiled.
    pub(crate) fn source(&self, style: Style) -> Cow<'static, str> {
        let source = self.in_words.filter(|_| style.in_words).unwrap_or(self.source);
        match style.in_integers && self.takes_halves() {
            true => format!("{}\n{HALVES_IN_INTEGERS}", source.replace(HALVES, "halves_in_integers")).into(),
            false => source.into(),
        }
    }

    pub(super) fn key(&self, variant: usize, style: Style) -> PipelineKey {
        (self.file, self.entry, variant, self.style(style))
    }
}

impl Gpu {
    /// Makes a kernel's pipeline ahead of its use, which would say what is wrong if anything is.
    pub(crate) fn compile_ahead(&self, kernel: &Kernel, variant: usize) {
        let _ = self.pipeline(kernel, variant, self.style());
    }

    /// The pipeline of a kernel's variant, compiled at its first use.
    pub(super) fn pipeline(&self, kernel: &Kernel, variant: usize, style: Style) -> Result<Arc<wgpu::ComputePipeline>> {
        let key = kernel.key(variant, style);
        if let Some(pipeline) = lock(&self.inner.pipelines).get(&key) {
            return Ok(Arc::clone(pipeline));
        }
        // Compiled outside the lock: two threads may both do it, which is only slower.
        let pipeline = Arc::new(self.compile(kernel, kernel.variants[variant], kernel.style(style))?);
        Ok(Arc::clone(lock(&self.inner.pipelines).entry(key).or_insert(pipeline)))
    }

    #[allow(unsafe_code, reason = "the one place that trusts shaders")]
    fn compile(&self, kernel: &Kernel, constants: Constants, style: Style) -> Result<wgpu::ComputePipeline> {
        let device = &self.inner.device;
        let narrowed = kernel.narrowed().filter(|_| style.narrow);
        let source = kernel.source(style);
        let constants: Vec<_> = constants.iter().copied().chain(narrowed).collect();
        let label = format!("{}::{}", kernel.file, kernel.entry);
        // All that a compiler may refuse. Of Vulkan's that costs the device: what may be refused is tried on another one.
        let filters = [wgpu::ErrorFilter::OutOfMemory, wgpu::ErrorFilter::Internal, wgpu::ErrorFilter::Validation];
        let scopes = filters.map(|filter| device.push_error_scope(filter));
        let descriptor = wgpu::ShaderModuleDescriptor { label: Some(&label), source: wgpu::ShaderSource::Wgsl(source) };
        // SAFETY: the shaders are this crate's own constants. Every index they form is guarded by the sizes passed with
        // the dispatch, and every loop ends; the op tests run them on shapes that are no multiple of any tile, between
        // guard values.
        let module = unsafe { device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) };
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(&label),
            layout: None,
            module: &module,
            entry_point: Some(kernel.entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &constants,
                zero_initialize_workgroup_memory: false,
            },
            cache: self.inner.cache.as_ref().map(PipelineCache::used),
        });
        // The innermost first.
        let errors = scopes.into_iter().rev().filter_map(|scope| now(scope.pop()));
        match errors.collect::<Vec<_>>().first() {
            Some(error) => Err(self.failed(format!("{label} {constants:?}: {error}"))),
            None => self.check().map(|()| pipeline),
        }
    }
}
