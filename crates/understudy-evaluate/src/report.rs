//! One page to look at: the means, every video's scores, and the videos themselves, with nothing outside the
//! file.

use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use understudy_media::{Video, WriteOptions};

use crate::error::Result;
use crate::evaluation::Row;
use crate::fvd::Fvd;
use crate::identity::FacePolicy;
use crate::statistics::Interval;
use crate::table::Table;
use crate::videos::{Clip, References};

/// Pixels of a thumbnail's longer side.
const SIDE: usize = 128;
/// Size of a plot, pixels.
const PLOT: [f64; 2] = [360.0, 34.0];
const STYLE: &str = "\
    :root{--ink:#1d2430;--soft:#5b6676;--line:#e1e5eb;--paper:#fff;--ground:#f5f6f8;--mark:#2b6cb0;--bad:#b3261e}\
    *{box-sizing:border-box}body{font:15px/1.5 system-ui,sans-serif;margin:0;background:var(--ground);color:var(--ink)}\
    main{max-width:76em;margin:0 auto;padding:2em 1.5em 4em}h1{font-size:1.7em;line-height:1.25;margin:0 0 .3em}\
    h2{font-size:1.2em;margin:2.2em 0 .7em}h3{font-size:1em;margin:1.6em 0 .2em}\
    .about{color:var(--soft);margin:0 0 1em}.about code{font-size:.9em;overflow-wrap:anywhere}\
    .sheet{background:var(--paper);border:1px solid var(--line);border-radius:8px;overflow-x:auto}\
    table{border-collapse:collapse;width:100%}td,th{padding:.5em .9em;text-align:left;border-bottom:1px solid var(--line);white-space:nowrap}\
    tr:last-child td{border-bottom:0}th{font-weight:600;color:var(--soft);font-size:.88em;padding-left:1.02em}td.n{font-variant-numeric:tabular-nums}\
    td.says{white-space:normal;min-width:20em}td.gain{white-space:normal;min-width:11em}svg{display:block}svg text{fill:var(--soft)}\
    .grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(17em,1fr));gap:1em}\
    .wide{grid-template-columns:repeat(auto-fill,minmax(22em,1fr))}\
    .clip{background:var(--paper);border:1px solid var(--line);border-radius:8px;padding:.8em}\
    .pair{display:flex;gap:.6em;margin-bottom:.5em}figure{flex:1;min-width:0;margin:0}\
    figcaption{color:var(--soft);font-size:.8em}img{display:block;image-rendering:pixelated}.pair img{width:100%;border-radius:4px}\
    .row{display:flex;flex-wrap:wrap;gap:.5em;margin:.4em 0 1em}.row img{height:6em;border-radius:4px}\
    .problem{color:var(--bad)}.prompt{color:var(--soft)}b{overflow-wrap:anywhere}\
    dl{display:grid;grid-template-columns:1fr auto;gap:.1em 1em;margin:.6em 0 0;font-size:.92em}dt{color:var(--soft)}\
    dd{margin:0;text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}ul{padding-left:1.2em}";
/// Pictures a page shows of one subject, and subjects.
const PICTURES: usize = 8;
const SUBJECTS: usize = 40;

/// What a page is about.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// Its title.
    pub title: String,
    /// When it was made, in words.
    pub date: String,
    /// The program, with its version.
    pub program: String,
    /// The command that made it.
    pub command: String,
    /// What is to be known of the scores.
    pub notes: Vec<String>,
}

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

/// The page of `own` scores and the pictures they were compared with; with others beside them, the videos of
/// one name side by side.
///
/// # Errors
/// When a thumbnail cannot be made; a video that cannot be read has none.
pub fn html(
    own: Scored,
    other: Option<Scored>,
    references: Option<&References>,
    about: &About,
) -> Result<String> {
    let table = own.table;
    let content = html! {
        h2 { "Scores" }
        (means(table, other.map(|other| other.table)))
        (notes(own, other, about))
        (list("Missing", Some("problem"), &table.rows, |row| &row.problems))
        (list("Noted", None, &table.rows, |row| &row.notes))
        @if let Some(references) = references { (compared(table, references)?) }
        h2 { "Videos" }
        div.grid.wide[other.is_some()] {
            @for row in &table.rows { (card(own, other, row)?) }
        }
    };
    Ok(page(about, &content))
}

/// A page with its title, what it is about, and `content`.
pub(crate) fn page(about: &About, content: &Markup) -> String {
    let About { title, date, program, command, .. } = about;
    let made = [program.as_str(), date].into_iter().filter(|text| !text.is_empty());
    let made = made.collect::<Vec<_>>().join(", ");
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    h1 { (title) }
                    p.about { (made) @if !command.is_empty() { br; code { (command) } } }
                    (content)
                }
            }
        }
    };
    page.into_string() + "\n"
}

/// What is to be known of all scores.
fn notes(own: Scored, other: Option<Scored>, about: &About) -> Markup {
    let mut notes = about.notes.clone();
    notes.extend(own.faces.map(|policy| format!("identity is by {}", policy.describe())));
    for (whose, scored) in [("", Some(own)), (" of the others", other)] {
        notes.extend(scored.and_then(|scored| scored.fvd).map(|fvd| format!("{}{whose}: {fvd}", fvd.name)));
    }
    html! { @for note in &notes { p { (note) } } }
}

/// What is `said` of some videos, under a heading; nothing where nothing is.
fn list(heading: &str, class: Option<&str>, rows: &[Row], said: fn(&Row) -> &[String]) -> Markup {
    let items: Vec<_> = rows.iter().flat_map(|row| said(row).iter().map(move |said| (row, said))).collect();
    html! {
        @if !items.is_empty() {
            h2 { (heading) }
            ul { @for (row, said) in items { li class=[class] { (row.name) ": " (said) } } }
        }
    }
}

/// The pictures that videos were compared with, each subject's once.
fn compared(table: &Table, references: &References) -> Result<Markup> {
    let mut places: Vec<PathBuf> = table.rows.iter().map(|row| references.of(&row.name)).collect();
    places.sort();
    places.dedup();
    // What cannot be read is missing in the scores, too.
    let subjects = places.iter().take(SUBJECTS).filter_map(|place| {
        let name = place.file_name().unwrap_or(place.as_os_str()).to_string_lossy();
        Some((name, References::read(place).ok()?))
    });
    let subjects: Vec<_> = subjects.collect();
    Ok(html! {
        @if !subjects.is_empty() || places.len() > SUBJECTS { h2 { "References" } }
        @for (name, pictures) in subjects {
            @let (shown, count) = (pictures.len().min(PICTURES), pictures.len());
            div.prompt { (name) @if shown < count { ", " (shown) " of " (count) " pictures" } }
            div.row {
                @for at in 0..shown {
                    (image(&Video::new(vec![pictures[at * count / shown].clone()], 1.0)?)?)
                }
            }
        }
        @if places.len() > SUBJECTS { p { (SUBJECTS) " of " (places.len()) " subjects are shown." } }
    })
}

/// A video in the page.
pub(crate) fn image(video: &Video) -> Result<Markup> {
    let encoded = STANDARD.encode(thumbnail(video)?);
    Ok(html! { img alt="" src={ "data:image/webp;base64," (encoded) }; })
}

/// A line a metric: its mean with the interval, every video's value, and what it gains over others.
fn means(table: &Table, other: Option<&Table>) -> Markup {
    html! {
        div.sheet {
            table {
                tr {
                    th { "metric" } th { "mean" } th { "95 %" } th { "videos" }
                    th { "each video, the mean and its interval" }
                    @if other.is_some() { th { "gain over the others" } }
                }
                @for (index, metric) in table.metrics.iter().enumerate() {
                    @let values = table.values(index);
                    tr {
                        td { (metric) }
                        @if let Some(interval) = table.mean(index) {
                            td.n { (score(interval.mean)) }
                            td.n { (score(interval.low)) " to " (score(interval.high)) }
                            td.n { (values.len()) }
                            td { (plot(&values, interval)) }
                            @if let Some(other) = other { (gain(table.gain(other, index))) }
                        } @else {
                            td.problem colspan=(if other.is_some() { 5 } else { 4 }) { "no video has it" }
                        }
                    }
                }
            }
        }
    }
}

fn gain(gain: Option<(Interval, usize)>) -> Markup {
    let Some((Interval { mean, low, high }, pairs)) = gain else {
        return html! { td { "no pair has it" } };
    };
    let plural = if pairs == 1 { "pair" } else { "pairs" };
    html! { td.n.gain { (format_args!("{mean:+.4} ({low:+.4} to {high:+.4}; {pairs} {plural})")) } }
}

/// A score as pages have it.
pub(crate) fn score(value: f64) -> String {
    format!("{value:.4}")
}

/// Values as dots along a line, their mean as a bar and its interval as a band.
pub(crate) fn plot(values: &[f64], Interval { mean, low, high }: Interval) -> Markup {
    let [width, height] = PLOT;
    let least = values.iter().copied().fold(low, f64::min);
    let most = values.iter().copied().fold(high, f64::max);
    let span = (most - least).max(1e-9);
    let at = |value: f64| 40.0 + (value - least) / span * (width - 80.0);
    let middle = height / 2.0 - 4.0;
    let pixels = |length: f64| format!("{length:.1}");
    html! {
        svg width=(width) height=(height) role="img" {
            rect x=(pixels(at(low))) y="2" width=(pixels((at(high) - at(low)).max(1.0)))
                height=(pixels(2.0 * middle - 4.0)) fill="#d3e2f3" {}
            @for value in values {
                circle cx=(pixels(at(*value))) cy=(middle) r="3" fill="#2b6cb0" opacity=".6" {}
            }
            rect x=(pixels(at(mean))) y="0" width="2" height=(pixels(2.0 * middle)) fill="#1d2430" {}
            @for (value, anchor) in [(least, "start"), (most, "end")] {
                text x=(pixels(at(value))) y=(height) font-size="9" text-anchor=(anchor) {
                    (format_args!("{value:.3}"))
                }
            }
        }
    }
}

/// A video with its prompt and its scores, beside that of the same name among others.
fn card(own: Scored, other: Option<Scored>, row: &Row) -> Result<Markup> {
    let [this, beside] = [Some(own), other]
        .map(|scored| scored.and_then(|scored| scored.clips.iter().find(|clip| clip.name == row.name)));
    let against = other.and_then(|other| other.table.rows.iter().find(|one| one.name == row.name));
    let said = |value: Option<f64>| match value {
        Some(value) => html! { (score(value)) },
        None => html! { span.problem { "missing" } },
    };
    Ok(html! {
        div.clip {
            div.pair {
                @for (whose, clip) in [("this", this), ("the other", beside)] {
                    @if let Some(video) = clip.and_then(|clip| clip.video().ok()) {
                        figure {
                            (image(&video)?)
                            @if other.is_some() { figcaption { (whose) } }
                        }
                    }
                }
            }
            b { (row.name) }
            @if let Some(prompt) = this.and_then(|clip| clip.prompt.as_deref()) {
                div.prompt { (prompt) }
            }
            dl {
                @for (index, (metric, value)) in own.table.metrics.iter().zip(&row.values).enumerate() {
                    dt { (metric) }
                    dd { (said(*value)) @if let Some(one) = against { " against " (said(one.values[index])) } }
                }
            }
        }
    })
}

/// The video as a small animated WebP.
pub(crate) fn thumbnail(video: &Video) -> Result<Vec<u8>> {
    let [width, height] = [video.width(), video.height()];
    let longer = width.max(height);
    let small = if longer > SIDE {
        let size = [height, width].map(|side| (side * SIDE / longer).max(2));
        let frames = video.frames.iter().map(|frame| Ok(frame.resize(size)?)).collect::<Result<_>>()?;
        Video::new(frames, video.fps)?
    } else {
        video.clone()
    };
    let folder = tempfile::tempdir()
        .map_err(|source| crate::Error::Write { path: std::env::temp_dir().display().to_string(), source })?;
    let path = folder.path().join("thumbnail.webp");
    small.write(&path, &WriteOptions { webp_quality: 70.0, ..WriteOptions::default() })?;
    std::fs::read(&path).map_err(|source| crate::Error::Write { path: path.display().to_string(), source })
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
            note: None,
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
        let pictures = folder.path().join("pictures");
        std::fs::create_dir(&pictures).unwrap();
        for at in 0..10 {
            Image::filled(40, 40, [20 * at, 0, 0]).write_png(pictures.join(format!("{at}.png"))).unwrap();
        }
        let references = References::open(&pictures).unwrap();
        let about = About {
            title: "Scores & more".into(),
            date: "30 November 2026".into(),
            program: "understudy 0.1.0".into(),
            command: "understudy evaluate --out 'a<b>.csv'".into(),
            notes: vec!["dino-i and identity are one number".into()],
        };
        let page = html(own, None, Some(&references), &about).unwrap();
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
            "understudy 0.1.0, 30 November 2026<br><code>understudy evaluate --out 'a&lt;b&gt;.csv'</code>",
            "<p>dino-i and identity are one number</p>",
            "pictures, 8 of 10 pictures",
        ] {
            assert!(page.contains(part), "{part}");
        }
        assert_eq!(page.matches("<img").count(), 1 + 8);
        assert!(!page.contains("http") && !page.contains("gain over"));
        let page = html(own, Some(own), None, &about).unwrap();
        assert_eq!(page.matches("<img").count(), 2);
        assert!(page.contains("+0.0000 (+0.0000 to +0.0000; 1 pair)") && page.contains("against 0.2500"));
    }
}
