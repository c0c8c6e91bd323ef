//! Whether an adapter fits a base, and what it was made for.

use understudy_engine::patch::Magnitude;
use understudy_engine::weights::{Probe, Weights};
use understudy_models::wan_transformer::{WanTransformer, WanTransformerConfig};
use understudy_pipeline::BaseConfig;

use burn::tensor::Device;

use crate::adapter::{Adapter, Residual};
use crate::error::{Error, Result, list};
use crate::names::is_of_pictures;
use crate::sites::{PATCHES, linear_sites};

/// The published denoiser of so many channels and blocks; `image` of those that start from a picture.
fn published(dim: usize, depth: usize, image: bool) -> Option<&'static str> {
    Some(match (dim, depth, image) {
        (1536, 30, false) => "Wan 2.1 T2V 1.3B",
        (5120, 40, false) => "Wan 2.1 T2V 14B, or a half of Wan 2.2 A14B",
        (5120, 40, true) => "Wan 2.1 I2V 14B",
        (3072, 30, _) => "Wan 2.2 TI2V 5B",
        _ => return None,
    })
}

impl Adapter {
    /// The published denoiser of the channels and blocks that it acts on, if it is one.
    pub fn model(&self) -> Option<&'static str> {
        let shapes = self.shapes();
        let block = |site: &str| site.strip_prefix("blocks.")?.split('.').next()?.parse::<usize>().ok();
        let depth = shapes.iter().filter_map(|(site, _)| block(site)).max()? + 1;
        let attends = |site: &str| site.ends_with("attn1.to_q") || site.ends_with("attn2.to_q");
        let (_, [_, dim]) = shapes.iter().find(|(site, _)| attends(site))?;
        published(*dim, depth, self.is_of_pictures())
    }

    /// Whether it acts on what only image-to-video denoisers have.
    fn is_of_pictures(&self) -> bool {
        self.shapes().iter().any(|(site, _)| is_of_pictures(site))
    }

    /// The maps it acts on, `[outputs, inputs]` of each.
    fn shapes(&self) -> Vec<(&str, [usize; 2])> {
        let residual = |own: &Residual| [own.up.dims()[0], own.down.dims()[1]];
        let residuals = self.residuals.iter().map(|(site, own)| (site.as_str(), residual(own)));
        residuals.chain(self.changes.iter().map(|(site, own)| (site.as_str(), own.delta.dims()))).collect()
    }

    /// That this adapter fits a base of this configuration.
    ///
    /// # Errors
    /// [`Error::OtherBase`] when it was made for another architecture, or has a site the base does not have or has
    /// in another shape.
    pub fn check(&self, config: &BaseConfig) -> Result<()> {
        self.check_named(config, "the adapter")
    }

    pub(crate) fn check_named(&self, config: &BaseConfig, name: &str) -> Result<()> {
        let identity = config.identity();
        let fault = |reason: String| Error::OtherBase {
            adapter: name.to_owned(),
            made_for: self.made_for(),
            base: base_name(config),
            reason,
        };
        if self.metadata.base.as_ref().is_some_and(|made_for| made_for.identity != identity) {
            return Err(fault("use it with its own base, or fit the subject again".to_owned()));
        }
        let misfits = self.misfits(config);
        if !misfits.is_empty() {
            let of_pictures = misfits.iter().all(|(name, _)| is_of_pictures(name));
            let said: Vec<String> = misfits.into_iter().map(|(_, reason)| reason).collect();
            let advice = match of_pictures {
                true => {
                    "use one for text-to-video; --allow-unmatched uses the rest of it, which was trained beside a picture"
                }
                false => "use it with its own base, or leave them out with --allow-unmatched",
            };
            return Err(fault(format!("{} sites do not fit: {}; {advice}", said.len(), list(&said))));
        }
        let dim = config.text_encoder.d_model;
        match self.token_rows.as_ref().map(|rows| rows.dims()[1]) {
            Some(found) if found != dim => {
                Err(fault(format!("its token has {found} channels, the text encoder {dim}")))
            }
            _ => Ok(()),
        }
    }

    /// What to call the base it was made for.
    fn made_for(&self) -> String {
        match (&self.metadata.base, self.model()) {
            (Some(base), _) => format!("the base {:?} ({})", base.name, base.identity),
            (None, Some(model)) => format!("{model} (told by its shapes)"),
            (None, None) if self.is_of_pictures() => "an image-to-video base".to_owned(),
            (None, None) => "another base".to_owned(),
        }
    }

    /// Sites whose residual or change a base of this configuration cannot take, and tensors whose difference, and why.
    fn misfits(&self, config: &BaseConfig) -> Vec<(String, String)> {
        let mut misfits = self.homeless(&config.transformer);
        if !self.differences.is_empty() {
            let build = |weights: &Weights| WanTransformer::new(weights, &config.transformer);
            let tensors = Probe::shapes(&Device::flex(), build);
            misfits.extend(self.differences.iter().filter_map(|(name, values)| {
                let reason = match tensors.get(name) {
                    None if is_of_pictures(name) => format!("{name} (of image-to-video alone)"),
                    None => format!("{name} (no such tensor)"),
                    Some(shape) if shape.iter().product::<usize>() != values.len() => {
                        format!("{name} ({} numbers, the base has {shape:?})", values.len())
                    }
                    Some(_) => return None,
                };
                Some((name.clone(), reason))
            }));
        }
        misfits
    }

    /// Sites that the denoiser does not have, or has in another shape. A residual that adds nothing needs none.
    fn homeless(&self, config: &WanTransformerConfig) -> Vec<(String, String)> {
        let sites = linear_sites(config);
        let misfit = |(site, found): (&str, [usize; 2])| {
            let reason = match sites.get(site) {
                None if self.residuals.get(site).is_some_and(Residual::is_zero) => return None,
                None if is_of_pictures(site) => format!("{site} (of image-to-video alone)"),
                None => format!("{site} (no such site)"),
                Some(shape) if *shape != found => format!("{site} (for {found:?}, the base has {shape:?})"),
                Some(_) => self.odd_kernel(site, config)?,
            };
            Some((site.to_owned(), reason))
        };
        self.shapes().into_iter().filter_map(misfit).collect()
    }

    /// What is wrong with what acts on a site of the right size, if it has another kernel than the denoiser.
    fn odd_kernel(&self, site: &str, config: &WanTransformerConfig) -> Option<String> {
        let kernel = self.residuals.get(site).and_then(|residual| residual.kernel);
        if let Some(kernel) = kernel.filter(|kernel| *kernel != config.patch_size) {
            return Some(format!("{site} (a convolution of {kernel:?})"));
        }
        let Magnitude::Inputs(norms) = self.changes.get(site)?.magnitude.as_ref()? else { return None };
        let channels = match site == PATCHES {
            true => config.in_channels,
            false => self.changes.get(site)?.delta.dims()[1],
        };
        let found = norms.dims()[0];
        (found != channels).then(|| format!("{site} ({found} magnitudes, the base has {channels} channels)"))
    }

    /// Leaves out what a base of this configuration has no site for; gives what was left out and why.
    pub fn keep_fitting(&mut self, config: &BaseConfig) -> Vec<String> {
        let misfits = self.misfits(config);
        // Tensors end in the name of a parameter, and sites do not.
        for (name, _) in &misfits {
            self.motion.remove(name);
            self.residuals.remove(name);
            self.changes.remove(name);
            self.differences.remove(name);
        }
        self.metadata.sites = self.residuals.len() + self.changes.len();
        misfits.into_iter().map(|(_, reason)| reason).collect()
    }
}

/// What to call a base in an error.
fn base_name(config: &BaseConfig) -> String {
    let transformer = &config.transformer;
    let image = transformer.image_dim.is_some();
    let model = published(transformer.inner_dim(), transformer.num_layers, image);
    let model = model.map(|model| format!("{model}, ")).unwrap_or_default();
    format!("this one ({model}{})", config.identity())
}
