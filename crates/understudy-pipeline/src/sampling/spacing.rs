//! Which timesteps of training a run of diffusion is shown (Lin et al., "Common Diffusion Noise Schedules and
//! Sample Steps are Flawed", 2024, table 2), as numpy counts them in diffusers' schedulers.

/// How timesteps are spread over those of training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spacing {
    /// Evenly, with both ends.
    Linspace,
    /// From the first on, by a whole stride: the last ones are left out.
    Leading,
    /// From the last on: the first ones are left out.
    Trailing,
}

/// `count` timesteps of `train`, from the last to the first, not yet rounded: `offset` is added to those of
/// [`Spacing::Leading`] alone.
pub fn spaced(spacing: Spacing, train: usize, count: usize, offset: f64) -> Vec<f64> {
    match spacing {
        Spacing::Linspace => {
            let mut line = linspace(0.0, train as f64 - 1.0, count);
            line.reverse();
            line
        }
        Spacing::Leading => leading(train / count, count, offset),
        Spacing::Trailing => trailing(train, train, count),
    }
}

/// `count` timesteps by `stride`, from the last to `offset`.
pub fn leading(stride: usize, count: usize, offset: f64) -> Vec<f64> {
    (0..count).rev().map(|index| (index * stride) as f64 + offset).collect()
}

/// The whole timesteps below `last`, downwards by `train / count` as far as there are such, but no more than
/// `count`: for some counts, as 61, rounding gives diffusers one more, -1.
pub fn trailing(last: usize, train: usize, count: usize) -> Vec<f64> {
    let (last, stride) = (last as f64, train as f64 / count as f64);
    // As `numpy.arange`, whose stride is the difference of its first two numbers.
    let difference = (last - stride) - last;
    let line = (0..count).map(|index| (last + index as f64 * difference).round_ties_even() - 1.0);
    line.filter(|timestep| *timestep >= 0.0).collect()
}

/// `count` evenly spaced numbers from `start` to exactly `end`.
pub fn linspace(start: f64, end: f64, count: usize) -> Vec<f64> {
    let step = (end - start) / count.saturating_sub(1).max(1) as f64;
    let mut line: Vec<f64> = (0..count).map(|index| index as f64 * step + start).collect();
    if let Some(last) = line.last_mut().filter(|_| count > 1) {
        *last = end;
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_as_were_asked_for() {
        for spacing in [Spacing::Linspace, Spacing::Leading, Spacing::Trailing] {
            for count in 1..=1000 {
                let timesteps = spaced(spacing, 1000, count, 0.0);
                assert_eq!(timesteps.len(), count, "{spacing:?}");
                assert!(timesteps.windows(2).all(|pair| pair[0] > pair[1]), "{spacing:?} {count}");
                assert!(timesteps.iter().all(|t| (0.0..1000.0).contains(t)), "{spacing:?} {count}");
            }
        }
    }
}
