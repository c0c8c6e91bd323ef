//! Whether an adapter fits a base, and what it was made for.

use understudy_engine::patch::Magnitude;
use understudy_engine::sites::Site;
use understudy_pipeline::{Description, FAMILIES};

use crate::adapter::{Adapter, Residual};
use crate::error::{Error, Result, list};

impl Adapter {
    /// The published denoiser of the channels and blocks that it acts on, if it is one.
    pub fn model(&self) -> Option<&'static str> {
        let shapes = self.shapes();
        FAMILIES.iter().find_map(|family| family.model_of(&shapes))
    }

    /// Whether it acts on what only kinds of its family have that are not run.
    fn is_foreign(&self) -> bool {
        self.shapes().iter().any(|(site, _)| self.naming().is_foreign(site))
    }

    /// The maps it acts on, `[outputs, inputs]` of each.
    fn shapes(&self) -> Vec<(&str, [usize; 2])> {
        let residual = |own: &Residual| [own.up.dims()[0], own.down.dims()[1]];
        let residuals = self.residuals.iter().map(|(site, own)| (site.as_str(), residual(own)));
        residuals.chain(self.changes.iter().map(|(site, own)| (site.as_str(), own.delta.dims()))).collect()
    }

    /// That this adapter fits such a base.
    ///
    /// # Errors
    /// [`Error::OtherBase`] when it was made for another architecture, or has a site the base does not have
    /// or has in another shape.
    pub fn check(&self, about: &Description) -> Result<()> {
        self.check_named(about, "the adapter")
    }

    pub(crate) fn check_named(&self, about: &Description, name: &str) -> Result<()> {
        let fault = |reason: String| Error::OtherBase {
            adapter: name.to_owned(),
            made_for: self.made_for(),
            base: base_name(about),
            reason,
        };
        if self.metadata.base.as_ref().is_some_and(|made_for| made_for.identity != about.identity) {
            return Err(fault("use it with its own base, or fit the subject again".to_owned()));
        }
        let misfits = self.misfits(about);
        if !misfits.is_empty() {
            let of_pictures = misfits.iter().all(|(name, _)| self.naming().is_foreign(name));
            let said: Vec<String> = misfits.into_iter().map(|(_, reason)| reason).collect();
            let advice = if of_pictures {
                "use one for text-to-video; --allow-unmatched uses the rest of it, which was trained beside a picture"
            } else {
                "use it with its own base, or leave them out with --allow-unmatched"
            };
            return Err(fault(format!("{} sites do not fit: {}; {advice}", said.len(), list(&said))));
        }
        let dim = about.text_table[1];
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
            (None, None) if self.is_foreign() => "an image-to-video base".to_owned(),
            (None, None) => "another base".to_owned(),
        }
    }

    /// Sites whose residual or change a base of this configuration cannot take, and tensors whose difference,
    /// and why.
    fn misfits(&self, about: &Description) -> Vec<(String, String)> {
        let mut misfits = self.homeless(about);
        if !self.differences.is_empty() {
            misfits.extend(self.differences.iter().filter_map(|(name, values)| {
                let reason = match about.tensors.get(name) {
                    None if self.naming().is_foreign(name) => format!("{name} (of image-to-video alone)"),
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

    /// Sites that the denoiser does not have, or has in another shape. A residual that adds nothing needs
    /// none.
    fn homeless(&self, about: &Description) -> Vec<(String, String)> {
        let misfit = |(site, found): (&str, [usize; 2])| {
            let reason = match about.map(site) {
                None if self.residuals.get(site).is_some_and(Residual::is_zero) => return None,
                None if self.naming().is_foreign(site) => format!("{site} (of image-to-video alone)"),
                None => format!("{site} (no such site)"),
                Some(own) if own.shape != found => {
                    format!("{site} (for {found:?}, the base has {:?})", own.shape)
                }
                Some(own) => self.odd_kernel(site, own)?,
            };
            Some((site.to_owned(), reason))
        };
        self.shapes().into_iter().filter_map(misfit).collect()
    }

    /// What is wrong with what acts on a site of the right size, if it has another kernel than the denoiser.
    fn odd_kernel(&self, path: &str, site: &Site) -> Option<String> {
        let kernel = self.residuals.get(path).and_then(|residual| residual.kernel);
        if let Some(kernel) = kernel.filter(|kernel| Some(*kernel) != site.kernel) {
            return Some(format!("{path} (a convolution of {kernel:?})"));
        }
        let Magnitude::Inputs(norms) = self.changes.get(path)?.magnitude.as_ref()? else { return None };
        let patch = site.kernel.map_or(1, |kernel| kernel.iter().product::<usize>());
        let (channels, found) = (site.shape[1] / patch, norms.dims()[0]);
        (found != channels).then(|| format!("{path} ({found} magnitudes, the base has {channels} channels)"))
    }

    /// Leaves out what such a base has no site for; gives what was left out and why.
    pub fn keep_fitting(&mut self, about: &Description) -> Vec<String> {
        let misfits = self.misfits(about);
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
fn base_name(about: &Description) -> String {
    let model = about.model.map(|model| format!("{model}, ")).unwrap_or_default();
    format!("this one ({model}{})", about.identity)
}
