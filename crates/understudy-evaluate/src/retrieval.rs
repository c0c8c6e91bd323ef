//! Finding the right text for a clip.

use crate::error::{Result, at_least, equal};

/// The cosine of the angle between two vectors; 0 where one of them is zero.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum() };
    let lengths = dot(a, a).sqrt() * dot(b, b).sqrt();
    if lengths > 0.0 { dot(a, b) / lengths } else { 0.0 }
}

/// The share of clips whose own text is nearer to them than every other text (R-precision, as in AttnGAN, Xu
/// et al. 2018). Row `i` of `clips` belongs to row `i` of `texts`; a tie counts as not found, so every text
/// should be there once.
///
/// # Errors
/// When there are fewer than two, or not as many clips as texts.
pub fn retrieval_accuracy(clips: &[Vec<f32>], texts: &[Vec<f32>]) -> Result<f64> {
    equal(clips.len(), texts.len(), "clips and texts")?;
    at_least(2, clips.len(), "clips")?;
    let found = clips.iter().enumerate().filter(|(own, clip)| {
        let score = cosine(clip, &texts[*own]);
        texts.iter().enumerate().all(|(other, text)| other == *own || cosine(clip, text) < score)
    });
    Ok(found.count() as f64 / clips.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_nearest_text_is_found() {
        let texts = vec![vec![1.0, 0.0], vec![0.0, 1.0], vec![-1.0, 0.0]];
        let clips = vec![vec![2.0, 0.1], vec![3.0, 1.0], vec![-1.0, 0.5]];
        let accuracy = retrieval_accuracy(&clips, &texts).unwrap();
        assert!((accuracy - 2.0 / 3.0).abs() < 1e-12);
        assert!(retrieval_accuracy(&clips, &texts[..2]).is_err());
    }

    #[test]
    fn a_tie_is_not_found() {
        let same = vec![vec![1.0, 0.0]; 2];
        assert_eq!(retrieval_accuracy(&same, &same).unwrap(), 0.0);
    }
}
