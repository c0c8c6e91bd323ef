//! One page to look at: the means, every video's scores, and the videos themselves, with nothing outside the file.

use std::fmt::Write as _;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use understudy_media::{Video, WriteOptions};

use crate::error::Result;
use crate::evaluation::Row;
use crate::fvd::Fvd;
use crate::identity::FacePolicy;
use crate::statistics::Interval;
use crate::table::Table;
use crate::videos::Clip;

/// Pixels of a thumbnail's longer side.
const SIDE: usize = 128;
/// Size of a plot, pixels.
const PLOT: [f64; 2] = [420.0, 34.0];
const STYLE: &str = "body{font:14px system-ui,sans-serif;margin:2em auto;max-width:72em;padding:0 1em;color:#222}\
    table{border-collapse:collapse}td,th{padding:.3em .8em;text-align:left;border-bottom:1px solid #ddd}\
    .grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(15em,1fr));gap:1em}\
    .clip{border:1px solid #ddd;border-radius:6px;padding:.8em}.pair{display:flex;gap:.4em}.pair img{flex:1;min-width:0;image-rendering:pixelated}\
    .problem{color:#a30}.prompt{color:#555;font-style:italic}dl{display:grid;grid-template-columns:auto auto;margin:.5em 0}\
    dd{margin:0;text-align:right;font-variant-numeric:tabular-nums}";

/// Scores with the videos they are of.
#[derive(Clone, Copy, Debug)]
pub struct Scored<'a> {
    /// The scores.
    pub table: &'a Table,
    /// The videos.
    pub clips: &'a [Clip],
    /// How far they are from real ones as a set, if that was asked for.
    pub fvd: Option<&'a Fvd>,
    /// How faces were summed up, if they were looked at.
    pub faces: Option<FacePolicy>,
}

/// The page of `own` scores under `title`; with others beside them, the videos of one name side by side.
///
/// # Errors
/// When a thumbnail cannot be made; a video that cannot be read has none.
pub fn html(own: Scored, other: Option<Scored>, title: &str) -> Result<String> {
    let table = own.table;
    let mut page = head(title);
    page.push_str(&means(table, other.map(|other| other.table)));
    if let Some(policy) = own.faces {
        let _ = write!(page, "<p>identity is by {}</p>", policy.describe());
    }
    for (whose, scored) in [("", Some(own)), (" of the others", other)] {
        if let Some(fvd) = scored.and_then(|scored| scored.fvd) {
            let _ = write!(page, "<p>{}{whose}: {}</p>", escaped(&fvd.name), escaped(&fvd.to_string()));
        }
    }
    let faulty: Vec<&Row> = table.rows.iter().filter(|row| !row.problems.is_empty()).collect();
    if !faulty.is_empty() {
        let _ = write!(
            page,
            "<h2>Missing</h2><p>{} of {} videos lack something:</p><ul>",
            faulty.len(),
            table.rows.len()
        );
        for row in faulty {
            let problems = row.problems.join("; ");
            let _ = write!(page, "<li class=\"problem\">{}: {}</li>", escaped(&row.name), escaped(&problems));
        }
        page.push_str("</ul>");
    }
    let noted: Vec<&Row> = table.rows.iter().filter(|row| !row.notes.is_empty()).collect();
    if !noted.is_empty() {
        page.push_str("<h2>Notes</h2><ul>");
        for row in noted {
            let _ = write!(page, "<li>{}: {}</li>", escaped(&row.name), escaped(&row.notes.join("; ")));
        }
        page.push_str("</ul>");
    }
    page.push_str("<h2>Videos</h2><div class=\"grid\">");
    for row in &table.rows {
        page.push_str(&card(own, other, row)?);
    }
    page.push_str("</div></html>\n");
    Ok(page)
}

/// The beginning of a page.
pub(crate) fn head(title: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{0}</title><style>{STYLE}</style><h1>{0}</h1>",
        escaped(title)
    )
}

/// A line a metric: its mean with the interval, every video's value, and what it gains over others.
fn means(table: &Table, other: Option<&Table>) -> String {
    let mut out =
        "<table><tr><th>metric<th>mean<th>95 %<th>videos<th>each video, the mean and its interval<th>gain over the others</tr>"
            .to_owned();
    for (index, metric) in table.metrics.iter().enumerate() {
        let values = table.values(index);
        let Some(interval) = table.mean(index) else {
            let _ = write!(out, "<tr><td>{metric}<td colspan=4 class=\"problem\">no video has it</tr>");
            continue;
        };
        let Interval { mean, low, high } = interval;
        let gain = match other.and_then(|other| table.gain(other, index)) {
            Some((Interval { mean, low, high }, pairs)) => {
                format!("{mean:+.4} ({low:+.4} to {high:+.4}; {pairs} pairs)")
            }
            None => String::new(),
        };
        let _ = write!(
            out,
            "<tr><td>{metric}<td>{mean:.4}<td>{low:.4} to {high:.4}<td>{}<td>{}<td>{gain}</tr>",
            values.len(),
            plot(&values, interval)
        );
    }
    out + "</table>"
}

/// Values as dots along a line, their mean as a bar and its interval as a band.
pub(crate) fn plot(values: &[f64], Interval { mean, low, high }: Interval) -> String {
    let [width, height] = PLOT;
    let least = values.iter().copied().fold(low, f64::min);
    let most = values.iter().copied().fold(high, f64::max);
    let span = (most - least).max(1e-9);
    let at = |value: f64| 40.0 + (value - least) / span * (width - 80.0);
    let mut out = format!("<svg width=\"{width}\" height=\"{height}\" role=\"img\">");
    let middle = height / 2.0 - 4.0;
    let _ = write!(
        out,
        "<rect x=\"{:.1}\" y=\"2\" width=\"{:.1}\" height=\"{:.1}\" fill=\"#cde\"/>",
        at(low),
        (at(high) - at(low)).max(1.0),
        2.0 * middle - 4.0
    );
    for value in values {
        let _ = write!(
            out,
            "<circle cx=\"{:.1}\" cy=\"{middle}\" r=\"3\" fill=\"#247\" opacity=\".5\"/>",
            at(*value)
        );
    }
    let _ = write!(out, "<rect x=\"{:.1}\" y=\"0\" width=\"2\" height=\"{:.1}\"/>", at(mean), 2.0 * middle);
    for (value, anchor) in [(least, "start"), (most, "end")] {
        let _ = write!(
            out,
            "<text x=\"{:.1}\" y=\"{height}\" font-size=\"9\" text-anchor=\"{anchor}\">{value:.3}</text>",
            at(value)
        );
    }
    out + "</svg>"
}

/// A video with its prompt and its scores, beside that of the same name among others.
fn card(own: Scored, other: Option<Scored>, row: &Row) -> Result<String> {
    let mut out = "<div class=\"clip\"><div class=\"pair\">".to_owned();
    for scored in [Some(own), other].into_iter().flatten() {
        let clip = scored.clips.iter().find(|clip| clip.name == row.name);
        if let Some(video) = clip.and_then(|clip| clip.video().ok()) {
            let encoded = STANDARD.encode(thumbnail(&video)?);
            let _ = write!(out, "<img alt=\"\" src=\"data:image/webp;base64,{encoded}\">");
        }
    }
    let _ = write!(out, "</div><b>{}</b>", escaped(&row.name));
    let clip = own.clips.iter().find(|clip| clip.name == row.name);
    if let Some(prompt) = clip.and_then(|clip| clip.prompt.as_deref()) {
        let _ = write!(out, "<div class=\"prompt\">{}</div>", escaped(prompt));
    }
    out.push_str("<dl>");
    let against = other.and_then(|other| other.table.rows.iter().find(|one| one.name == row.name));
    for (index, (metric, value)) in own.table.metrics.iter().zip(&row.values).enumerate() {
        let said = |value: Option<f64>| match value {
            Some(value) => format!("{value:.4}"),
            None => "<span class=\"problem\">missing</span>".to_owned(),
        };
        let beside = against.map_or_else(String::new, |one| format!(" against {}", said(one.values[index])));
        let _ = write!(out, "<dt>{metric}<dd>{}{beside}", said(*value));
    }
    Ok(out + "</dl></div>")
}

/// The video as a small animated WebP.
pub(crate) fn thumbnail(video: &Video) -> Result<Vec<u8>> {
    let [width, height] = [video.width(), video.height()];
    let longer = width.max(height);
    let small = match longer > SIDE {
        true => {
            let size = [height, width].map(|side| (side * SIDE / longer).max(2));
            let frames = video.frames.iter().map(|frame| Ok(frame.resize(size)?)).collect::<Result<_>>()?;
            Video::new(frames, video.fps)?
        }
        false => video.clone(),
    };
    let folder = tempfile::tempdir()
        .map_err(|source| crate::Error::Write { path: std::env::temp_dir().display().to_string(), source })?;
    let path = folder.path().join("thumbnail.webp");
    small.write(&path, &WriteOptions { webp_quality: 70.0, ..WriteOptions::default() })?;
    std::fs::read(&path).map_err(|source| crate::Error::Write { path: path.display().to_string(), source })
}

/// `text` as HTML.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metric;
    use understudy_media::Image;

    #[test]
    fn a_page_holds_every_video_and_names_what_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.webp");
        let frames = (0..4).map(|at| Image::filled(300, 200, [60 * at, 90, 20])).collect();
        Video::new(frames, 8.0).unwrap().write(&path, &WriteOptions::default()).unwrap();
        let clip = |name: &str, path: Option<std::path::PathBuf>| Clip {
            name: name.into(),
            path,
            prompt: Some("a <red> ball & more".into()),
            fps: 8.0,
        };
        let row = |name: &str, value: Option<f64>, problems: &[&str]| Row {
            values: vec![value, None],
            problems: problems.iter().map(|&problem| problem.into()).collect(),
            ..Row::new(name, 2)
        };
        let table = Table {
            metrics: vec![Metric::ClipT, Metric::TCons],
            rows: vec![
                Row { notes: vec!["no face in 1 of 4 frames: 2".into()], ..row("a", Some(0.25), &[]) },
                row("b<1>", None, &["there is a prompt and no video"]),
            ],
        };
        let clips = [clip("a", Some(path)), clip("b<1>", None)];
        let fvd = Fvd { name: "fvd-styleganv-16f".into(), distance: 151.26, videos: 8, references: 300 };
        let own = Scored { table: &table, clips: &clips, fvd: Some(&fvd), faces: Some(FacePolicy::Default) };
        let page = html(own, None, "Scores & more").unwrap();
        for part in [
            "Scores &amp; more",
            "data:image/webp;base64,UklGR",
            "a &lt;red&gt; ball &amp; more",
            "b&lt;1&gt;: there is a prompt and no video",
            "0.2500",
            "no video has it",
            "fvd-styleganv-16f: 151.2600 (8 videos, 300 references; not comparable",
            "identity is by face_default",
            "<li>a: no face in 1 of 4 frames: 2</li>",
            "<svg",
        ] {
            assert!(page.contains(part), "{part}");
        }
        assert_eq!(page.matches("<img").count(), 1);
        assert!(!page.contains("http"));
        let page = html(own, Some(own), "x").unwrap();
        assert_eq!(page.matches("<img").count(), 2);
        assert!(page.contains("+0.0000 (+0.0000 to +0.0000; 1 pairs)") && page.contains("against 0.2500"));
    }
}
