//! How much of what is painted on a character comes back: the pattern and the emblem that a judge reads from
//! the frames.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;
use serde::Deserialize;
use understudy_media::Image;
use understudy_models::iresnet::{IResNet, IResNetConfig};
use understudy_pipeline::Files;

use crate::error::{Error, Result};
use crate::input::Input;
use crate::motion::rows;
use crate::networks::{config, network};

/// A character's markings by name, as `markings.json` among its references states them.
pub type TrueMarkings = BTreeMap<String, String>;

/// Their file among a subject's references.
const FILE: &str = "markings.json";

/// The markings `folder/markings.json` states.
///
/// # Errors
/// When it is not there or malformed.
pub fn true_markings(folder: &Path) -> Result<TrueMarkings> {
    let path = folder.join(FILE);
    let fault = |reason: String| Error::Videos { path: path.display().to_string(), reason };
    let bytes = std::fs::read(&path).map_err(|error| fault(error.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|error| fault(error.to_string()))
}

/// Reads markings from frames.
#[derive(Debug)]
pub struct MarkingsJudge {
    network: IResNet,
    markings: Vec<Marking>,
    input: Input,
    device: Device,
}

/// A judge's configuration, with what its numbers stand for.
#[derive(Deserialize)]
struct Described {
    #[serde(flatten)]
    model: IResNetConfig,
    markings: Vec<Marking>,
}

/// A marking that is read, and the values it may have.
#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Marking {
    name: String,
    values: Vec<String>,
}

impl MarkingsJudge {
    /// Loads `folder/config.json` and its weights, as `pretrain` writes them.
    ///
    /// # Errors
    /// When one of them is missing or malformed, or the weights do not fit.
    pub fn load(files: &Files, folder: &str, device: &Device) -> Result<Self> {
        let Described { model, markings } = config(files, folder)?;
        let network = network(files, folder, device, |weights| IResNet::new(weights, &model))?;
        Ok(Self { input: Input::Square(model.size), network, markings, device: device.clone() })
    }

    /// The probability that is given to what is true, averaged over the markings and the frames; `None` where
    /// a marking or its value is not known, or without frames.
    ///
    /// # Errors
    /// When a frame cannot be resized, or what is read is not finite.
    pub fn score(&self, truth: &TrueMarkings, frames: &[Image]) -> Result<Option<f64>> {
        let read = self.input.rows(frames, &self.device, |pixels| rows(self.network.forward(pixels)))?;
        Ok(score(&read, &self.markings, truth))
    }
}

/// The score of `read`, a row of numbers for every value of every marking a frame.
fn score(read: &[Vec<f32>], markings: &[Marking], truth: &TrueMarkings) -> Option<f64> {
    let mut places = Vec::new();
    let mut first = 0;
    for marking in markings {
        if let Some(value) = truth.get(&marking.name) {
            let at = marking.values.iter().position(|own| own == value)?;
            places.push((first, marking.values.len(), at));
        }
        first += marking.values.len();
    }
    let known = truth.keys().all(|name| markings.iter().any(|own| own.name == *name));
    let probability = |row: &Vec<f32>, &(first, count, at): &(usize, usize, usize)| {
        let own = row.get(first..first + count)?;
        let most = own.iter().copied().fold(f32::MIN, f32::max);
        let weights = own.iter().map(|value| f64::from(value - most).exp());
        Some(f64::from(own[at] - most).exp() / weights.sum::<f64>())
    };
    let all = read.iter().flat_map(|row| places.iter().map(move |place| probability(row, place)));
    let all = all.collect::<Option<Vec<f64>>>()?;
    (known && !all.is_empty()).then(|| all.iter().sum::<f64>() / all.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marking(name: &str, values: &[&str]) -> Marking {
        Marking { name: name.to_owned(), values: values.iter().map(|own| (*own).to_owned()).collect() }
    }

    #[test]
    fn what_is_there_counts_by_how_sure_it_is() {
        let markings =
            [marking("pattern", &["plain", "striped"]), marking("emblem", &["none", "star", "disc"])];
        let truth = |pairs: &[(&str, &str)]| -> TrueMarkings {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let read = [vec![0.0, 0.0, 0.0, 50.0, 0.0]];
        let both = score(&read, &markings, &truth(&[("pattern", "striped"), ("emblem", "star")]));
        assert!((both.unwrap() - 0.75).abs() < 1e-9);
        // A marking that is not stated does not count.
        assert!((score(&read, &markings, &truth(&[("emblem", "star")])).unwrap() - 1.0).abs() < 1e-9);
        assert!(score(&read, &markings, &truth(&[("emblem", "disc")])).unwrap() < 1e-9);
        for unknown in [truth(&[("emblem", "moon")]), truth(&[("hat", "red")]), truth(&[])] {
            assert_eq!(score(&read, &markings, &unknown), None);
        }
        assert_eq!(score(&[], &markings, &truth(&[("emblem", "star")])), None);
    }
}
