//! Subjects found by what they are called: GroundingDINO for their boxes, SAM for their masks, put together
//! as MSRVTT-Personalization does.
//!
//! Layouts of the ONNX files are those of Hugging Face's export of GroundingDINO (`pixel_values`,
//! `pixel_mask`, `input_ids`, `token_type_ids`, `attention_mask`; `logits`, `pred_boxes`), and for SAM an
//! encoder from a picture to its embedding and the decoder of the original release, exported with all masks.

use understudy_media::resample::Pillow;
use understudy_media::{Image, Mask};
use understudy_pipeline::Tokenizer;

use crate::detect::{Array, Network, Values, planes};
use crate::error::{Error, Result};
use crate::preprocess::{IMAGENET_MEAN, IMAGENET_STD};
use crate::subjects::{Segment, Segmenter};

/// GroundingDINO's sides: the shorter one, and what the longer one may have.
const SHORT: usize = 800;
const LONG: usize = 1333;
/// Tokens it tells apart.
const TOKENS: usize = 256;
const LEAST_SCORE: f32 = 0.4;
/// SAM's longer side, and its samples' means and deviations.
const SAM_SIDE: usize = 1024;
const SAM_MEAN: [f32; 3] = [123.675, 116.28, 103.53];
const SAM_STD: [f32; 3] = [58.395, 57.12, 57.375];
/// How much a mask must be sure to overlap.
const LEAST_OVERLAP: f32 = 0.9;
/// Labels of a box's two corners.
const CORNERS: [f32; 2] = [2.0, 3.0];
/// Of a box beyond the picture's edge, how many columns or rows may be missing.
const SLACK: usize = 3;

/// What finds boxes by words, and what finds masks in them.
pub struct GroundedSam<N> {
    detector: N,
    words: Tokenizer,
    encoder: N,
    decoder: N,
}

impl<N: Network> GroundedSam<N> {
    /// A GroundingDINO with its tokenizer, and a SAM in two parts.
    pub fn new(detector: N, words: Tokenizer, [encoder, decoder]: [N; 2]) -> Self {
        Self { detector, words, encoder, decoder }
    }

    fn ids(&self, text: &str) -> Result<Vec<u32>> {
        let tokens = self.words.encode_cut(&[text], TOKENS)?;
        let length = tokens.lengths.first().copied().unwrap_or_default();
        Ok(tokens.ids.into_iter().next().unwrap_or_default().into_iter().take(length).collect())
    }

    /// The box of each word, whole pixels that may be beyond the picture.
    fn boxes(&self, picture: &Image, words: &[String]) -> Result<Vec<Option<[i64; 4]>>> {
        let mut prompt = words.join(" . ").to_lowercase().trim().to_owned();
        if !prompt.ends_with('.') {
            prompt.push('.');
        }
        let ids = self.ids(&prompt)?;
        let own = words.iter().map(|word| {
            let word = self.ids(&word.to_lowercase())?;
            Ok(places(&ids, word.get(1..word.len().saturating_sub(1)).unwrap_or_default()))
        });
        let own: Vec<Vec<usize>> = own.collect::<Result<_>>()?;
        let outputs = self.detector.run(detector_inputs(picture, &ids)?)?;
        let named = |name: &str| {
            outputs.iter().find(|output| output.name == name).ok_or_else(|| Error::Network {
                reason: format!("a GroundingDINO has an output {name:?}; give Hugging Face's export of it"),
            })
        };
        let logits = named("logits")?.rows(TOKENS)?;
        let boxes = named("pred_boxes")?.rows(4)?;
        let size = [picture.width as f32, picture.height as f32];
        let best = assigned(&logits, &own);
        Ok(best.into_iter().map(|query| Some(pixels(boxes.get(query?)?, size))).collect())
    }

    /// SAM's mask within a box, if it is sure of it.
    fn mask(&self, embedding: &Array, picture: &Image, bounds: [i64; 4]) -> Result<Option<Mask>> {
        let scale = sam_size(picture).map(|side| side as f32);
        let [down, across] = [scale[0] / picture.height as f32, scale[1] / picture.width as f32];
        let corners = [
            bounds[0] as f32 * across,
            bounds[1] as f32 * down,
            bounds[2] as f32 * across,
            bounds[3] as f32 * down,
        ];
        let size = vec![picture.height as f32, picture.width as f32];
        let inputs = vec![
            Array { name: "image_embeddings".to_owned(), ..embedding.clone() },
            Array::floats("point_coords", &[1, 2, 2], corners.to_vec()),
            Array::floats("point_labels", &[1, 2], CORNERS.to_vec()),
            Array::floats("mask_input", &[1, 1, 256, 256], vec![0.0; 256 * 256]),
            Array::floats("has_mask_input", &[1], vec![0.0]),
            Array::floats("orig_im_size", &[2], size),
        ];
        let outputs = self.decoder.run(inputs)?;
        let values = |name: &str| match outputs.iter().find(|output| output.name == name) {
            Some(Array { values: Values::Floats(values), .. }) => Ok(values),
            _ => Err(Error::Network {
                reason: format!(
                    "a SAM decoder has an output {name:?}; export it as the original release does"
                ),
            }),
        };
        // The first of its masks is the one for a box.
        let area = picture.width * picture.height;
        let sure = values("iou_predictions")?.first().is_some_and(|overlap| *overlap > LEAST_OVERLAP);
        Ok(values("masks")?.get(..area).filter(|_| sure).map(|logits| Mask {
            width: picture.width,
            height: picture.height,
            alpha: logits.iter().map(|logit| if *logit > 0.0 { 255 } else { 0 }).collect(),
        }))
    }
}

impl<N: Network> Segmenter for GroundedSam<N> {
    fn segments(&self, picture: &Image, words: &[String]) -> Result<Vec<Option<Segment>>> {
        let boxes = self.boxes(picture, words)?;
        if boxes.iter().all(Option::is_none) {
            return Ok(vec![None; words.len()]);
        }
        let embedding = self.encoder.run(vec![sam_input(picture)?])?.into_iter().next();
        let embedding = embedding
            .ok_or_else(|| Error::Network { reason: "a SAM encoder gives an embedding".to_owned() })?;
        let one = |bounds: Option<[i64; 4]>| {
            let Some((bounds, within)) = bounds.and_then(|own| Some((own, inside(own, picture)?))) else {
                return Ok(None);
            };
            let mask = self.mask(&embedding, picture, bounds)?;
            Ok(mask.map(|mask| Segment { bounds: within, mask }))
        };
        boxes.into_iter().map(one).collect()
    }
}

/// Every place in `ids` that belongs to an occurrence of `word`.
fn places(ids: &[u32], word: &[u32]) -> Vec<usize> {
    if word.is_empty() {
        return Vec::new();
    }
    let starts = ids.windows(word.len()).enumerate().filter(|(_, window)| *window == word);
    starts.flat_map(|(at, _)| at..at + word.len()).collect()
}

/// The query of each word: of those that fit it better than any other word the best, if it fits well enough.
fn assigned(logits: &[&[f32]], words: &[Vec<usize>]) -> Vec<Option<usize>> {
    let fit = |row: &[f32], places: &[usize]| {
        let chance = |at: usize| row.get(at).map_or(0.0, |logit| 1.0 / (1.0 + (-logit).exp()));
        let best = places.iter().map(|at| chance(*at)).fold(0.0, f32::max);
        let mean = places.iter().map(|at| chance(*at)).sum::<f32>() / places.len().max(1) as f32;
        0.5 * (best + mean)
    };
    let mut found: Vec<Option<(usize, f32)>> = vec![None; words.len()];
    for (query, row) in logits.iter().enumerate() {
        let fits = words.iter().map(|places| fit(row, places)).enumerate();
        let best = fits.reduce(|best, one| if one.1 > best.1 { one } else { best });
        if let Some((word, fit)) = best
            && found[word].is_none_or(|(_, most)| fit > most)
        {
            found[word] = Some((query, fit));
        }
    }
    found.into_iter().map(|best| best.filter(|(_, fit)| *fit > LEAST_SCORE).map(|(query, _)| query)).collect()
}

/// A box given by its centre and size as shares of the picture, cut to whole pixels.
fn pixels(shares: &[f32], [width, height]: [f32; 2]) -> [i64; 4] {
    let [x, y, across, down] = [0, 1, 2, 3].map(|at| shares.get(at).copied().unwrap_or_default());
    let [x, y, across, down] = [x * width, y * height, across * width, down * height];
    let [left, top] = [x - across / 2.0, y - down / 2.0];
    [left, top, left + across, top + down].map(|value| value as i64)
}

/// The part of a box that is inside a picture, if enough of it is.
fn inside(bounds: [i64; 4], picture: &Image) -> Option<[usize; 4]> {
    let whole = bounds.map(|value| usize::try_from(value).ok());
    let [left, top, right, bottom] = [whole[0]?, whole[1]?, whole[2]?, whole[3]?];
    let within = [left, top, right.min(picture.width), bottom.min(picture.height)];
    let lost = [right - within[2], bottom - within[3]];
    let kept = within[2] > left && within[3] > top;
    (kept && lost.contains(&0) && lost.iter().all(|lost| *lost <= SLACK)).then_some(within)
}

fn detector_inputs(picture: &Image, ids: &[u32]) -> Result<Vec<Array>> {
    let [height, width] = detector_size(picture);
    let resized = Pillow::Bilinear.resize(picture, [height, width])?;
    let pixels = planes(&resized, |channel, sample| {
        (f32::from(sample) / 255.0 - IMAGENET_MEAN[channel] as f32) / IMAGENET_STD[channel] as f32
    });
    let tokens = [1, ids.len()];
    Ok(vec![
        Array::floats("pixel_values", &[1, 3, height, width], pixels),
        Array::integers("pixel_mask", &[1, height, width], vec![1; height * width]),
        Array::integers("input_ids", &tokens, ids.iter().map(|id| i64::from(*id)).collect()),
        Array::integers("token_type_ids", &tokens, vec![0; ids.len()]),
        Array::integers("attention_mask", &tokens, vec![1; ids.len()]),
    ])
}

/// The height and width GroundingDINO looks at.
fn detector_size(picture: &Image) -> [usize; 2] {
    let [short, long] = [picture.width.min(picture.height) as f64, picture.width.max(picture.height) as f64];
    let side = if long / short * SHORT as f64 > LONG as f64 {
        (LONG as f64 * short / long).round_ties_even() as usize
    } else {
        SHORT
    };
    let other = (side as f64 * long / short) as usize;
    if picture.height <= picture.width { [side, other] } else { [other, side] }
}

/// The height and width SAM looks at.
fn sam_size(picture: &Image) -> [usize; 2] {
    let scale = SAM_SIDE as f64 / picture.width.max(picture.height) as f64;
    [picture.height, picture.width].map(|side| (side as f64 * scale + 0.5) as usize)
}

fn sam_input(picture: &Image) -> Result<Array> {
    let [height, width] = sam_size(picture);
    let resized = Pillow::Bilinear.resize(picture, [height.max(1), width.max(1)])?;
    let mut values = vec![0.0; 3 * SAM_SIDE * SAM_SIDE];
    let own = planes(&resized, |channel, sample| (f32::from(sample) - SAM_MEAN[channel]) / SAM_STD[channel]);
    for (line, row) in own.chunks_exact(resized.width).enumerate() {
        let (channel, y) = (line / resized.height, line % resized.height);
        values[(channel * SAM_SIDE + y) * SAM_SIDE..][..resized.width].copy_from_slice(row);
    }
    Ok(Array::floats("", &[1, 3, SAM_SIDE, SAM_SIDE], values))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_belongs_to_the_word_it_fits_best() {
        // "cap . blue cap .": the second word has the first's token and one of its own.
        let ids = [101, 7, 1, 8, 7, 1, 102];
        let words = [places(&ids, &[7]), places(&ids, &[8, 7])];
        assert_eq!(words, [vec![1, 4], vec![3, 4]]);
        let row = |logits: [f32; 5]| logits.to_vec();
        // The first query fits both, the cap better; the second is weaker; the third is the blue cap's.
        let rows = [
            row([-9.0, 3.0, -9.0, 0.0, 3.0]),
            row([-9.0, 2.0, -9.0, -9.0, 2.0]),
            row([-9.0, -9.0, -9.0, 1.0, 0.0]),
        ];
        let logits: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
        assert_eq!(assigned(&logits, &words), [Some(0), Some(2)]);
        // Alone, the second word's best is taken by the first, and nothing is left for it.
        assert_eq!(assigned(&logits[..2], &words), [Some(0), None]);
        assert_eq!(places(&ids, &[]), Vec::<usize>::new());
    }

    #[test]
    fn boxes_are_cut_to_whole_pixels_and_must_be_inside() {
        assert_eq!(pixels(&[0.5, 0.5, 0.5, 0.25], [103.0, 50.0]), [25, 18, 77, 31]);
        let picture = Image::filled(100, 50, [0; 3]);
        assert_eq!(inside([10, 5, 102, 20], &picture), Some([10, 5, 100, 20]));
        assert_eq!(inside([10, 5, 104, 20], &picture), None);
        assert_eq!(inside([10, 5, 101, 51], &picture), None);
        assert_eq!(inside([-1, 5, 20, 20], &picture), None);
    }

    #[test]
    fn sizes_are_those_of_the_published_code() {
        let size = |width, height| detector_size(&Image::filled(width, height, [0; 3]));
        assert_eq!((size(512, 288), size(100, 100), size(240, 320)), ([750, 1333], [800, 800], [1066, 800]));
        assert_eq!(sam_size(&Image::filled(512, 288, [0; 3])), [576, 1024]);
    }
}
