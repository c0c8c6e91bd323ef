//! The contact sheet: the subject's pictures, and every video before and after.

use anyhow::Result;
use understudy_media::{ContactSheet, Image, SheetCell, SheetRow};

use super::{PROMPTS, SEEDS, Take};
use crate::results::{Results, Scores};

/// Frames of each video.
const FRAMES: usize = 5;

/// Draws the sheet of videos in the order of prompts and, within them, seeds.
///
/// # Errors
/// When frames do not fit on it.
pub fn render(pictures: &[Image], before: &[Take], after: &[Take], results: &Results) -> Result<Image> {
    let mut subject = SheetRow::new("subject").caption("all that was learned from");
    for pictures in pictures.chunks(pictures.len().div_ceil(SEEDS.len()).max(1)) {
        subject = subject.cell(SheetCell { frames: pictures.to_vec() });
    }
    let mut rows = vec![subject];
    for first in (0..PROMPTS.len()).map(|prompt| prompt * SEEDS.len()) {
        for (label, takes) in [("before", before), ("after", after)] {
            let pairs = takes.iter().zip(&results.rows).skip(first).take(SEEDS.len());
            let mut row = SheetRow::new(label);
            let mut scores = Vec::new();
            for (take, scored) in pairs {
                let Scores { identity, text, .. } =
                    if label == "before" { scored.before } else { scored.after };
                scores.push(format!("seed {}: identity {identity:.2}, text {text:.2}", take.seed));
                row = row.cell((&take.video, FRAMES));
            }
            rows.push(row.caption(format!("\"{}\" - {}", takes[first].text, scores.join("; "))));
        }
    }
    let title = "One subject, before and after fitting".to_owned();
    Ok(ContactSheet { title, rows, scale: 2, ..ContactSheet::default() }.render()?)
}
