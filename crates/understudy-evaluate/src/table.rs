//! The table of results: rows while they come, and the file at the end.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use understudy_files::{seal_line, unseal_line};
use understudy_media::write_file;

use crate::error::{Error, Result};
use crate::evaluation::{Row, stamp};
use crate::metrics::Metric;
use crate::statistics::{Interval, bootstrap};
use crate::videos::Clip;

/// How sure the interval of a mean is, and the seed of its resamples.
const CONFIDENCE: f64 = 0.95;
const SEED: u64 = 0;

/// Scores of videos.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// The columns.
    pub metrics: Vec<Metric>,
    /// A row a video.
    pub rows: Vec<Row>,
}

impl Table {
    /// The values of column `index` that are there.
    pub fn values(&self, index: usize) -> Vec<f64> {
        self.rows.iter().filter_map(|row| row.values[index]).collect()
    }

    /// The mean of column `index` with its 95 % bootstrap interval; `None` if it is empty.
    pub fn mean(&self, index: usize) -> Option<Interval> {
        bootstrap(&self.values(index), CONFIDENCE, SEED).ok()
    }

    /// By how much videos of this table score higher in column `index` than those of the same names in
    /// `other`, by the same metrics: the mean of the differences with its 95 % bootstrap interval, and how
    /// many pairs there are.
    pub fn gain(&self, other: &Self, index: usize) -> Option<(Interval, usize)> {
        let of = |name: &str| other.rows.iter().find(|row| row.name == name)?.values[index];
        let differences: Vec<f64> =
            self.rows.iter().filter_map(|row| Some(row.values[index]? - of(&row.name)?)).collect();
        Some((bootstrap(&differences, CONFIDENCE, SEED).ok()?, differences.len()))
    }

    /// Writes the table to `path` as CSV: `name`, then a column a metric; what is missing is empty.
    ///
    /// # Errors
    /// When it cannot be written; nothing is left behind then.
    pub fn write_csv(&self, path: &Path) -> Result<()> {
        let cell = |value: f64| value.to_string();
        Ok(write_file(path, |file| {
            let mut csv = csv::Writer::from_writer(file);
            csv.write_field("name")?;
            csv.write_record(self.metrics.iter().map(|metric| metric.column()))?;
            for row in &self.rows {
                csv.write_field(&row.name)?;
                csv.write_record(row.values.iter().map(|value| value.map_or(String::new(), cell)))?;
            }
            csv.flush()
        })?)
    }
}

/// The rows of an evaluation that is under way, in a file beside its result: an evaluation that was stopped
/// goes on from there.
#[derive(Debug)]
pub struct Unfinished {
    path: PathBuf,
    file: File,
    known: Vec<Stamped>,
    damaged: usize,
}

/// A row, and what it is of.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Stamped {
    stamp: String,
    row: Row,
}

impl Unfinished {
    /// The one of the result at `out`, made with `settings`; rows of other settings are forgotten, and so are
    /// damaged ones.
    ///
    /// # Errors
    /// When its file cannot be read or written.
    pub fn open(out: &Path, settings: &str) -> Result<Self> {
        let mut name = out.file_name().unwrap_or_default().to_os_string();
        name.push(".part");
        let path = out.with_file_name(name);
        let fault = |source: io::Error| Error::Write { path: path.display().to_string(), source };
        let found = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            found => found.map_err(fault)?,
        };
        let (known, damaged) = read(&found, settings);
        // From here on it is added to, and a last line that was cut off would be in the way.
        let rows = known.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>();
        let rows = rows.map_err(|error| fault(error.into()))?;
        let lines = [serde_json::json!(settings).to_string()].into_iter().chain(rows);
        let text: String = lines.map(|line| seal_line(&line)).collect();
        if text.as_bytes() != found {
            write_file(&path, |file| file.write_all(text.as_bytes()))?;
        }
        let file = OpenOptions::new().append(true).open(&path).map_err(fault)?;
        Ok(Self { path, file, known, damaged })
    }

    /// How many lines were damaged; their rows are made again.
    pub fn damaged(&self) -> usize {
        self.damaged
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The row of `clip`, if it is known and neither the video nor its prompt and references have changed
    /// since.
    pub fn row(&self, clip: &Clip, references: Option<&Path>) -> Option<Row> {
        let own = stamped(clip, references)?;
        self.known
            .iter()
            .find(|known| known.row.name == clip.name && known.stamp == own)
            .map(|known| known.row.clone())
    }

    /// Keeps the row of `clip`, unless something is missing that may be there the next time.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add(&mut self, clip: &Clip, references: Option<&Path>, row: &Row) -> Result<()> {
        let Some(stamp) = stamped(clip, references).filter(|_| row.problems.is_empty()) else {
            return Ok(());
        };
        let stamped = Stamped { stamp, row: row.clone() };
        let fault = |source: io::Error| Error::Write { path: self.path.display().to_string(), source };
        let line = serde_json::to_string(&stamped).map_err(|error| fault(error.into()))?;
        self.file.write_all(seal_line(&line).as_bytes()).map_err(fault)?;
        self.known.push(stamped);
        Ok(())
    }

    /// The result is written: this is not needed any more.
    pub fn finish(self) {
        // Left behind it does no harm.
        let _ = fs::remove_file(&self.path);
    }
}

/// What a row of `clip` depends on: its files, what was found in its frames, its prompt, and the references
/// in a folder.
fn stamped(clip: &Clip, references: Option<&Path>) -> Option<String> {
    let path = clip.path.as_deref()?;
    let found = ["faces.json", "faces.csv", "masks"].map(|kind| format!("{}.{kind}", clip.name));
    let beside = found.map(|name| path.with_file_name(name)).into_iter().filter(|path| path.exists());
    let mut files = vec![stamp(path), references.map(stamp).unwrap_or_default()];
    files.extend(beside.map(|path| stamp(&path)));
    Some(format!("{}|{:?}|{}", files.join("|"), clip.prompt, clip.fps))
}

/// The rows in `text` if they were made with `settings`, and how many lines are damaged; a last line that was
/// cut off is none.
fn read(text: &[u8], settings: &str) -> (Vec<Stamped>, usize) {
    let mut lines = text.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
    let Some(first) = lines.next() else { return (Vec::new(), 0) };
    match unseal_line(first).map(serde_json::from_str::<String>) {
        Some(Ok(own)) if own == settings => {}
        Some(_) => return (Vec::new(), 0),
        // Nobody knows what its rows are of.
        None => return (Vec::new(), 1 + lines.count()),
    }
    let (mut rows, mut damaged) = (Vec::new(), 0);
    for line in lines {
        match unseal_line(line).map(serde_json::from_str) {
            Some(Ok(row)) => rows.push(row),
            _ => damaged += 1,
        }
    }
    (rows, damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, value: Option<f64>) -> Row {
        Row { values: vec![value], ..Row::new(name, 1) }
    }

    #[test]
    fn a_table_is_written_with_empty_cells_and_quoted_names() {
        let folder = tempfile::tempdir().unwrap();
        let rows = vec![row("a", Some(0.25)), row("b, \"c\"", None)];
        let table = Table { metrics: vec![Metric::ClipT], rows };
        let path = folder.path().join("x.csv");
        table.write_csv(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "name,clip_t\na,0.25\n\"b, \"\"c\"\"\",\n");
        assert_eq!(table.mean(0).unwrap().mean, 0.25);
    }

    #[test]
    fn gains_are_of_pairs() {
        let table = |rows: Vec<Row>| Table { metrics: vec![Metric::ClipT], rows };
        let one = table(vec![row("a", Some(0.5)), row("b", Some(0.9)), row("c", None), row("d", Some(0.0))]);
        let other = table(vec![row("b", Some(0.6)), row("a", Some(0.4)), row("c", Some(0.1))]);
        let (gain, pairs) = one.gain(&other, 0).unwrap();
        assert!((gain.mean - 0.2).abs() < 1e-12 && pairs == 2);
        assert!(gain.low >= 0.1 - 1e-12 && gain.high <= 0.3 + 1e-12);
        assert!(one.gain(&table(vec![row("x", Some(1.0))]), 0).is_none());
    }

    #[test]
    fn rows_are_kept_until_the_settings_or_the_video_change() {
        let folder = tempfile::tempdir().unwrap();
        let (out, video) = (folder.path().join("x.csv"), folder.path().join("a.mp4"));
        fs::write(&video, "one").unwrap();
        let clip = Clip { name: "a".into(), path: Some(video.clone()), prompt: None, note: None, fps: 8.0 };
        let mut unfinished = Unfinished::open(&out, "s").unwrap();
        assert_eq!(unfinished.row(&clip, None), None);
        unfinished.add(&clip, None, &row("a", Some(0.1))).unwrap();
        let missing = Row { problems: vec!["x".into()], ..row("b", None) };
        unfinished.add(&Clip { name: "b".into(), ..clip.clone() }, None, &missing).unwrap();
        drop(unfinished);
        // A line that a kill cut off.
        let part = folder.path().join("x.csv.part");
        fs::write(&part, [fs::read(&part).unwrap(), b"{\"stamp\"".to_vec()].concat()).unwrap();
        let known = |clip: &Clip| Unfinished::open(&out, "s").unwrap().row(clip, None);
        assert_eq!(known(&clip), Some(row("a", Some(0.1))));
        assert_eq!(known(&clip), Some(row("a", Some(0.1))));
        assert_eq!(known(&Clip { prompt: Some("p".into()), ..clip.clone() }), None);
        // A bit that flipped.
        let mut flipped = fs::read(&part).unwrap();
        *flipped.iter_mut().rev().find(|byte| **byte == b'1').unwrap() = b'3';
        fs::write(&part, flipped).unwrap();
        assert_eq!(Unfinished::open(&out, "s").unwrap().damaged(), 1);
        assert_eq!(known(&clip), None);
        Unfinished::open(&out, "s").unwrap().add(&clip, None, &row("a", Some(0.1))).unwrap();
        fs::write(&video, "longer").unwrap();
        assert_eq!(known(&clip), None);
        Unfinished::open(&out, "other").unwrap().finish();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
