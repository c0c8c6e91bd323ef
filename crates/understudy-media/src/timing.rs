//! When the frames of a clip are shown, and which of them at an even rate.

/// A rate that is so many times higher than the wanted one is taken for it.
const ALIKE: f64 = 1.1;
/// Never more moments: as many frames of the smallest size are more than fit [`crate::MAX_VIDEO_BYTES`].
const MOST: usize = 6_000_000;
/// A moment that is so little before a frame's start, in seconds, is the start: times are sums of rounded
/// numbers.
const EXACT: f64 = 1e-6;

/// When each frame of a clip is shown, in seconds since the first.
#[derive(Debug, Clone, PartialEq)]
pub struct Timing {
    /// When each begins to be shown, rising from zero.
    starts: Vec<f64>,
    /// How long the last is shown.
    last: f64,
    /// The unit of the file's clock: so far each start is off at most.
    tick: f64,
}

/// Frames at an even rate.
#[derive(Debug, Clone, PartialEq)]
pub struct Even {
    /// The index of the frame that is shown at each moment: rising, some twice or more, some never.
    pub frames: Vec<usize>,
    /// Moments a second.
    pub fps: f64,
}

impl Even {
    /// Those of `items`, one of each frame; copied where one is shown more than once.
    pub fn pick<T: Clone>(&self, items: Vec<T>) -> Vec<T> {
        let mut wanted = self.frames.iter().peekable();
        let mut picked = Vec::with_capacity(self.frames.len());
        for (at, item) in items.into_iter().enumerate() {
            let mut times = 0;
            while wanted.next_if(|next| **next == at).is_some() {
                times += 1;
            }
            picked.extend(std::iter::repeat_n(item, times));
        }
        picked
    }
}

impl Timing {
    /// Frames that begin at `starts` and of which the last is shown for `last`, by a clock that counts in
    /// units of `tick`; all in seconds. Where `last` is not positive, it is as long as the others on average.
    pub(crate) fn new(mut starts: Vec<f64>, last: f64, tick: f64) -> Self {
        let first = starts.first().copied().unwrap_or_default();
        starts.iter_mut().for_each(|start| *start -= first);
        let mean = starts.last().copied().unwrap_or_default() / (starts.len().max(2) - 1) as f64;
        let known = [last, mean, 0.1].into_iter().find(|length| *length > 0.0 && length.is_finite());
        Self { starts, last: known.unwrap_or(0.1), tick }
    }

    /// Frames shown for `delays` seconds each.
    pub(crate) fn of_delays(delays: &[f64], tick: f64) -> Self {
        let starts = delays.iter().scan(0.0, |at, delay| {
            let start = *at;
            *at += delay;
            Some(start)
        });
        Self::new(starts.collect(), delays.last().copied().unwrap_or_default(), tick)
    }

    /// When each frame begins to be shown, in seconds since the first.
    pub fn starts(&self) -> &[f64] {
        &self.starts
    }

    /// Frames a second on average.
    pub fn mean_rate(&self) -> f64 {
        let even = self.beats().filter(|even| even.frames.len() == self.starts.len());
        even.map_or_else(|| self.starts.len() as f64 / self.end(), |even| even.fps)
    }

    /// The frames as they follow one another at an even rate: where all are shown for whole multiples of the
    /// shortest time, or nearly equally long, each as often as it is shown; otherwise the one that is shown
    /// at each moment, at the rate most have.
    pub fn even(&self) -> Even {
        self.beats().unwrap_or_else(|| self.sampled(1.0 / self.usual()))
    }

    /// The frames that are shown at `fps` moments a second, and all of them where there are hardly more or
    /// fewer than that.
    pub fn at_rate(&self, fps: f64) -> Even {
        match self.beats() {
            Some(even) if even.fps <= ALIKE * fps => even,
            Some(even) => {
                let step = even.fps / fps;
                let at = |moment: usize| even.frames.get((moment as f64 * step + EXACT) as usize).copied();
                Even { frames: (0..).map_while(at).collect(), fps }
            }
            None => self.sampled(fps),
        }
    }

    fn end(&self) -> f64 {
        self.starts.last().copied().unwrap_or_default() + self.last
    }

    fn sampled(&self, fps: f64) -> Even {
        let count = (((self.end() - EXACT) * fps).floor() as usize).min(MOST) + 1;
        let shown = |moment: usize| {
            let moment = moment as f64 / fps + EXACT;
            self.starts.partition_point(|start| *start <= moment).saturating_sub(1)
        };
        Even { frames: (0..count).map(shown).collect(), fps }
    }

    fn delays(&self) -> impl Iterator<Item = f64> {
        self.starts.windows(2).map(|pair| pair[1] - pair[0])
    }

    /// The median time a frame is shown.
    fn usual(&self) -> f64 {
        let mut delays: Vec<f64> = self.delays().collect();
        delays.sort_by(f64::total_cmp);
        delays.get(delays.len() / 2).copied().filter(|delay| *delay > 0.0).unwrap_or(self.last)
    }

    /// Each frame as often as the time it is shown has beats, if the clip has any.
    fn beats(&self) -> Option<Even> {
        let shortest = self.delays().fold(f64::INFINITY, f64::min);
        if self.starts.len() < 2 {
            return Some(Even { frames: vec![0; self.starts.len()], fps: 1.0 / self.last });
        }
        if shortest < self.tick * 0.5 || shortest <= 0.0 {
            return None;
        }
        // Rounded to the clock, the shortest time is up to a unit off. A clock that hardly counts finer than
        // frames are shown was made for them.
        const PARTS: i32 = 8;
        let off = if shortest < 1.5 * self.tick { 0 } else { PARTS };
        let beats = (-off..=off).map(|part| shortest + self.tick * f64::from(part) / f64::from(PARTS));
        let counted = beats.filter_map(|beat| self.counts(beat));
        let counted = counted.min_by_key(|(counts, _)| counts.iter().sum::<usize>());
        let (mut counts, beat) = counted.or_else(|| self.nearly_even())?;
        counts.push(((self.last / beat).round() as usize).clamp(1, MOST));
        let frames = counts.iter().enumerate().flat_map(|(at, count)| std::iter::repeat_n(at, *count));
        Some(Even { frames: frames.collect(), fps: 1.0 / beat })
    }

    /// How many beats of about `beat` seconds each frame but the last is shown, and how long a beat is;
    /// nothing where the frames do not keep to it.
    fn counts(&self, beat: f64) -> Option<(Vec<usize>, f64)> {
        // A delay is so far from a whole number of beats at most: 24 frames a second are 4 or 5 hundredths.
        const OFF: f64 = 0.3;
        // No clip has a higher rate; but two frames may stand as close as the clock can say.
        const FASTEST: f64 = 250.0;
        if beat * FASTEST < 1.0 - EXACT {
            return None;
        }
        let count = |delay: f64| {
            let times = delay / beat;
            let whole = (0.5..MOST as f64).contains(&times) && (times - times.round()).abs() < OFF;
            whole.then_some(times.round() as usize)
        };
        let counts: Vec<usize> = self.delays().map(count).collect::<Option<_>>()?;
        let sum: usize = counts.iter().sum();
        let rate = sum as f64 / self.starts.last()?;
        // Rounded times say a rate only nearly. Where one that is used fits them as well, it is that.
        let usual = [rate.round(), (rate * 1.001).round() / 1.001, (rate * 2.0).round() / 2.0, rate];
        let beat = usual.map(|rate| 1.0 / rate).into_iter().find(|beat| self.keeps(&counts, *beat))?;
        (sum < MOST).then_some((counts, beat))
    }

    /// Whether each frame but the last starts when it would after so many beats, as far as the clock can say.
    fn keeps(&self, counts: &[usize], beat: f64) -> bool {
        const UNIT: f64 = 0.75;
        let mut at = 0;
        counts.iter().zip(&self.starts[1..]).all(|(count, start)| {
            at += count;
            (at as f64 * beat - start).abs() <= UNIT * self.tick + EXACT
        })
    }

    /// One beat a frame, where none is half a beat off.
    fn nearly_even(&self) -> Option<(Vec<usize>, f64)> {
        let count = self.starts.len() - 1;
        let beat = self.starts[count] / count as f64;
        let mut off = self.starts.iter().enumerate().map(|(at, start)| (at as f64 * beat - start).abs());
        off.all(|off| off < beat / 2.0).then(|| (vec![1; count], beat))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(delays: &[f64], tick: f64) -> Timing {
        let delays: Vec<f64> = delays.iter().map(|delay| delay / 1000.0).collect();
        Timing::of_delays(&delays, tick / 1000.0)
    }

    /// How often each frame is shown.
    fn counts(even: &Even) -> Vec<usize> {
        let last = even.frames.last().copied().unwrap_or_default();
        (0..=last).map(|at| even.frames.iter().filter(|frame| **frame == at).count()).collect()
    }

    #[test]
    fn delays_of_whole_multiples_are_repeats() {
        let shown = |delays: &[f64], tick| counts(&of(delays, tick).even());
        assert_eq!(shown(&[125.0, 250.0, 125.0, 375.0], 1.0), [1, 2, 1, 3]);
        assert_eq!(shown(&[40.0, 40.0, 50.0, 40.0], 10.0), [1, 1, 1, 1]);
        // Of 16 frames a second by the millisecond, and 40 by the hundredth; two that are shown longer.
        assert_eq!(shown(&[62.0, 63.0, 62.0, 188.0, 125.0, 62.0], 1.0), [1, 1, 1, 3, 2, 1]);
        assert_eq!(shown(&[20.0, 30.0, 20.0, 30.0, 20.0, 30.0], 10.0), [1; 6]);
        // A clock that counts frames: what is two of its units is two frames.
        assert_eq!(shown(&[40.0, 80.0, 40.0, 40.0], 40.0), [1, 2, 1, 1]);
        let rate = of(&[62.0, 63.0, 62.0, 63.0, 62.0, 63.0], 1.0).even().fps;
        assert!((rate - 16.0).abs() < 0.1, "{rate}");
    }

    #[test]
    fn frames_are_shown_at_their_moments() {
        // The first half second at 32 a second, then 8.
        let delays = [[31.25; 16].as_slice(), &[125.0; 4]].concat();
        let timing = of(&delays, 0.1);
        assert_eq!(timing.at_rate(8.0).frames, [0, 4, 8, 12, 16, 17, 18, 19]);
        assert_eq!(timing.at_rate(16.0).frames[..12], [0, 2, 4, 6, 8, 10, 12, 14, 16, 16, 17, 17]);
        // No beat: what is shown at 0, 125, 250, ... ms.
        let uneven = of(&[90.0, 137.0, 211.0, 48.0, 402.0, 71.0], 0.1);
        assert_eq!(uneven.at_rate(8.0).frames, [0, 1, 2, 2, 4, 4, 4, 4]);
        assert!((uneven.even().fps - 1.0 / 0.137).abs() < 1e-6);
    }

    #[test]
    fn the_same_frames_are_picked_whatever_the_clock() {
        // 30 frames a second in units of 1/90000 s, 1 ms and 10 ms.
        for tick in [1.0 / 90.0, 1.0, 10.0] {
            let start = |at: usize| (at as f64 * 1000.0 / 30.0 / tick).round() * tick;
            let delays: Vec<f64> = (0..60).map(|at| start(at + 1) - start(at)).collect();
            let picked = of(&delays, tick).at_rate(8.0);
            let wanted: Vec<usize> = (0..16).map(|moment| moment * 30 / 8).collect();
            assert_eq!(picked.frames, wanted, "{tick}");
        }
    }

    #[test]
    fn even_clips_lose_frames_only_to_a_slower_base() {
        let of = |fps: f64, count: usize| Timing::of_delays(&vec![1.0 / fps; count], 1e-6);
        assert_eq!(of(24.0, 10).at_rate(16.0).frames, [0, 1, 3, 4, 6, 7, 9]);
        assert_eq!(of(16.5, 3).at_rate(16.0).frames, [0, 1, 2]);
        let slow = of(8.0, 3).at_rate(16.0);
        assert_eq!((slow.frames, slow.fps.round()), (vec![0, 1, 2], 8.0));
        assert_eq!(of(8.0, 1).even(), Even { frames: vec![0], fps: 8.0 });
    }

    #[test]
    fn frames_that_all_but_coincide_are_no_beat() {
        let mut delays = vec![40.0; 30];
        (delays[9], delays[10]) = (0.01, 79.99);
        let even = of(&delays, 0.01).even();
        assert_eq!((even.frames.len(), even.fps.round()), (30, 25.0));
    }

    #[test]
    fn a_clip_that_trembles_is_even() {
        let delays: Vec<f64> = (0..30).map(|at| 40.0 + f64::from(at * 7 % 5) - 2.0).collect();
        let even = of(&delays, 0.01).even();
        assert_eq!(counts(&even), [1; 30]);
        assert!((even.fps - 25.0).abs() < 0.1);
    }
}
