//! Which frames of a track are shown, and when: sample times and edit lists (ISO/IEC 14496-12, 8.6).

use mp4_atom::{ElstEntry, Stbl, Trak};

use crate::Timing;

/// Frames of a track as its edit list shows them.
pub(super) struct Shown {
    /// Positions in presentation order, as they follow one another; one may come more than once.
    pub frames: Vec<usize>,
    pub timing: Timing,
}

/// A sample's presentation and how long it lasts, in units of the media's clock.
#[derive(Clone, Copy)]
struct Moment {
    start: i64,
    length: i64,
}

/// An edit in units of the media's clock: nothing shown for `length`, or the media from `from` on.
struct Edit {
    from: Option<i64>,
    /// `None`: to the end of the media.
    length: Option<i64>,
}

impl Shown {
    /// What is shown of the `count` samples of a track, in a movie whose clock has `movie_scale` units a
    /// second. As ffmpeg has it, a frame that began before its edit is not shown, and frames play at their
    /// own rate whatever an edit's rate is.
    pub fn of(trak: &Trak, movie_scale: u32, count: usize) -> Result<Self, String> {
        let scale = trak.mdia.mdhd.timescale;
        let mut moments = moments(&trak.mdia.minf.stbl, count);
        let ticks = moments.iter().fold(0i64, |sum, moment| sum.saturating_add(moment.length));
        if scale == 0 || ticks == 0 || moments.len() < count {
            return Err("its frame times (`stts`, `mdhd`) give no usable frame rate".into());
        }
        moments.sort_by_key(|moment| moment.start);
        let list = trak.edts.as_ref().and_then(|edits| edits.elst.as_ref());
        let entries = list.map_or(&[][..], |list| &list.entries);
        let mut edits: Vec<Edit> = entries.iter().map(|entry| Edit::of(entry, scale, movie_scale)).collect();
        if edits.is_empty() {
            edits.push(Edit { from: Some(moments[0].start), length: None });
        }
        let shown = show(&moments, &edits);
        let Some((_, last)) = shown.last() else {
            return Err("its edit list shows none of its frames".into());
        };
        let tick = 1.0 / f64::from(scale);
        let starts = shown.iter().map(|(_, moment)| moment.start as f64 * tick).collect();
        Ok(Self {
            timing: Timing::new(starts, last.length as f64 * tick, tick),
            frames: shown.into_iter().map(|(at, _)| at).collect(),
        })
    }
}

impl Edit {
    fn of(entry: &ElstEntry, scale: u32, movie_scale: u32) -> Self {
        let length = u128::from(entry.segment_duration) * u128::from(scale);
        let half = u128::from(movie_scale) / 2;
        let length = (length + half).checked_div(u128::from(movie_scale)).unwrap_or_default();
        let length = i64::try_from(length).ok().filter(|length| *length > 0);
        // The largest value stands for an end that was not known.
        let known = entry.segment_duration != u64::from(u32::MAX) && entry.segment_duration != u64::MAX;
        Self {
            from: entry.media_time.map(|time| i64::try_from(time).unwrap_or(i64::MAX)),
            length: length.filter(|_| known),
        }
    }
}

/// The presentation of each sample in decoding order, as far as the tables go.
fn moments(table: &Stbl, count: usize) -> Vec<Moment> {
    let deltas = table.stts.entries.iter().flat_map(|run| repeat(run.sample_delta.into(), run.sample_count));
    let offsets = table.ctts.iter().flat_map(|offsets| &offsets.entries);
    let offsets = offsets.flat_map(|run| repeat(run.sample_offset, run.sample_count));
    let mut decoded = 0i64;
    let moment = |(length, offset): (i64, i64)| {
        let start = decoded.saturating_add(offset);
        decoded = decoded.saturating_add(length);
        Moment { start, length }
    };
    deltas.zip(offsets.chain(std::iter::repeat(0))).take(count).map(moment).collect()
}

fn repeat(value: i64, times: u32) -> impl Iterator<Item = i64> {
    std::iter::repeat_n(value, times as usize)
}

/// The frames that the edits show, each with its start in the movie and how long it lasts.
fn show(moments: &[Moment], edits: &[Edit]) -> Vec<(usize, Moment)> {
    let (mut shown, mut at) = (Vec::new(), 0i64);
    for edit in edits {
        let Some(from) = edit.from else {
            at = at.saturating_add(edit.length.unwrap_or_default());
            continue;
        };
        let until = edit.length.map_or(i64::MAX, |length| from.saturating_add(length));
        let first = moments.partition_point(|moment| moment.start < from);
        let last = moments.partition_point(|moment| moment.start < until);
        let placed = (first..last).map(|index| {
            let Moment { start, length } = moments[index];
            let start_in_movie = at.saturating_add(start.saturating_sub(from));
            (index, Moment { start: start_in_movie, length: length.min(until.saturating_sub(start)) })
        });
        shown.extend(placed);
        at = at.saturating_add(edit.length.unwrap_or_default());
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(edits: &[(Option<i64>, i64)]) -> Vec<(usize, i64)> {
        let moments: Vec<Moment> = (0..6).map(|at| Moment { start: 100 + 10 * at, length: 10 }).collect();
        let edits: Vec<Edit> =
            edits.iter().map(|(from, length)| Edit { from: *from, length: Some(*length) }).collect();
        show(&moments, &edits).into_iter().map(|(index, moment)| (index, moment.start)).collect()
    }

    #[test]
    fn edits_show_what_begins_within_them() {
        assert_eq!(shown(&[(Some(120), 25)]), [(2, 0), (3, 10), (4, 20)]);
        // A frame that began before is not shown.
        assert_eq!(shown(&[(Some(125), 20)]), [(3, 5), (4, 15)]);
        // An empty edit, then two segments, the second of them earlier media.
        assert_eq!(shown(&[(None, 7), (Some(140), 20), (Some(100), 10)]), [(4, 7), (5, 17), (0, 27)]);
        assert_eq!(shown(&[(Some(500), 20)]), []);
    }
}
