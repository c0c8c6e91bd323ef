//! The shapes that pictures and clips are trained at: all of about one area, each as near to its own aspect
//! as the base allows, so that little is cut off.

use crate::subject::SubjectOptions;

/// The least share of a side that is kept without a word.
const MUCH: f64 = 0.75;
/// The least area of a shape, as a fraction of the training size's.
const LEAST_AREA: [usize; 2] = [3, 5];

/// Height and width that a picture of `[height, width]` is trained at.
///
/// Where [`SubjectOptions::buckets`] is given, the shapes are those of about the area of
/// [`SubjectOptions::size`], never more, whose sides are whole multiples of what the base needs and whose
/// ratio is at most so large; else there is only the size itself.
pub(crate) fn shape_of(picture: [usize; 2], options: &SubjectOptions) -> [usize; 2] {
    let off = |shape: &[usize; 2]| (aspect(*shape) / aspect(picture)).ln().abs();
    let area = |shape: &[usize; 2]| shape[0] * shape[1];
    let nearer = |a: &[usize; 2], b: &[usize; 2]| {
        // Of those that are as near, the largest; and of two as large, always the same.
        let near = if (off(a) - off(b)).abs() < 1e-9 {
            std::cmp::Ordering::Equal
        } else {
            off(a).total_cmp(&off(b))
        };
        near.then(area(b).cmp(&area(a))).then(a.cmp(b))
    };
    shapes(options).into_iter().min_by(nearer).unwrap_or(options.size)
}

/// All shapes there are.
fn shapes(options: &SubjectOptions) -> Vec<[usize; 2]> {
    let size = options.size;
    let Some(largest) = options.buckets.map(f64::from) else { return vec![size] };
    // The training size itself is a shape whatever its aspect is.
    let largest = largest.max(aspect(size)).max(1.0 / aspect(size));
    let [tall, wide] = options.multiple.map(|multiple| multiple.max(1));
    let area = size[0] * size[1];
    let longest = (area as f64 * largest).sqrt() as usize;
    // Of every side the longest other one that the area and the ratio allow.
    let other = |side: usize, multiple: usize| {
        (area / side).min((side as f64 * largest) as usize) / multiple * multiple
    };
    let mut shapes = vec![size];
    shapes.extend((1..=longest / wide).map(|times| [other(times * wide, tall), times * wide]));
    shapes.extend((1..=longest / tall).map(|times| [times * tall, other(times * tall, wide)]));
    // Squares are common, and the side of one need not be a whole multiple of both.
    let side = (area as f64).sqrt() as usize;
    shapes.push([side / tall * tall, side / wide * wide]);
    let usable = |shape: &[usize; 2]| {
        let large = shape[0] * shape[1] * LEAST_AREA[1] >= area * LEAST_AREA[0];
        large && aspect(*shape).max(1.0 / aspect(*shape)) <= largest * (1.0 + 1e-9)
    };
    shapes.retain(|shape| shape[0] > 0 && shape[1] > 0 && usable(shape));
    shapes
}

/// Width over height.
fn aspect([height, width]: [usize; 2]) -> f64 {
    width as f64 / height as f64
}

/// The shares of height and width of `picture` that are left when the middle of it is cut to the aspect of
/// `shape`.
fn kept(picture: [usize; 2], shape: [usize; 2]) -> [f64; 2] {
    let ratio = aspect(shape) / aspect(picture);
    [(1.0 / ratio).min(1.0), ratio.min(1.0)]
}

/// What is lost of a picture of `[height, width]` that is trained at `shape`, where that is much, with the
/// setting that keeps it.
pub(crate) fn lost(picture: [usize; 2], shape: [usize; 2], options: &SubjectOptions) -> Option<String> {
    let shares = kept(picture, shape);
    let (side, share) = if shares[0] < shares[1] { ("height", shares[0]) } else { ("width", shares[1]) };
    if share >= MUCH - 1e-9 {
        return None;
    }
    let percent = (100.0 * (1.0 - share)).round();
    let [height, width] = shape;
    Some(format!(
        "{percent} % of its {side}, cut to {width}x{height} around the middle; {}",
        advice(picture, options)
    ))
}

/// The setting with which little of such a picture is cut off: more shapes of about the area where that has
/// one, or the smallest size that has.
fn advice(picture: [usize; 2], options: &SubjectOptions) -> String {
    let ratio = aspect(picture).max(1.0 / aspect(picture));
    let whole = |shape: [usize; 2]| {
        let shares = kept(picture, shape);
        shares[0].min(shares[1]) >= MUCH
    };
    // With the ratio of the picture itself, or the largest of any shape that keeps so much of it.
    let within = |largest: f64| {
        let shape = shape_of(picture, &SubjectOptions { buckets: Some(largest as f32), ..*options });
        whole(shape).then_some(shape)
    };
    let found = within((ratio * 10.0).ceil() / 10.0).or_else(|| within(ratio / MUCH));
    if let (Some(shape), Some(_)) = (found, options.buckets) {
        // To a tenth above, so that the shape itself is among those allowed.
        let largest = (aspect(shape).max(1.0 / aspect(shape)) * 10.0 - 1e-6).ceil() / 10.0;
        return format!("--set buckets={largest} keeps more, or trim it around the subject");
    }
    let [height, width] = found.unwrap_or_else(|| smallest(picture, options.multiple));
    format!("--height {height} --width {width} keep more, or trim it around the subject")
}

/// The smallest height and width of whole multiples that little of a picture is cut off at.
fn smallest(picture: [usize; 2], multiple: [usize; 2]) -> [usize; 2] {
    let [tall, wide] = multiple.map(|multiple| multiple.max(1));
    let fitting = |times: usize| {
        // The nearest height of a width, or the nearest width of a height.
        let width = times * wide;
        let height = times * tall;
        let nearest =
            |side: f64, multiple: usize| ((side / multiple as f64).round() as usize).max(1) * multiple;
        let shapes = [
            [nearest(width as f64 / aspect(picture), tall), width],
            [height, nearest(height as f64 * aspect(picture), wide)],
        ];
        shapes.into_iter().find(|shape| kept(picture, *shape).iter().all(|share| *share >= MUCH))
    };
    (1..).find_map(fitting).unwrap_or(picture)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(size: [usize; 2], multiple: usize) -> SubjectOptions {
        SubjectOptions {
            size,
            multiple: [multiple; 2],
            buckets: Some(2.0),
            clip_frames: 17,
            fps: 8.0,
            strict: true,
        }
    }

    #[test]
    fn every_picture_gets_the_shape_that_cuts_it_least() {
        let small = options([64, 64], 8);
        for (picture, shape) in [
            ([512, 512], [64, 64]),
            ([500, 512], [64, 64]),
            ([768, 1024], [56, 72]),
            ([1024, 768], [72, 56]),
            ([1500, 1000], [80, 48]),
            ([320, 120], [80, 40]),
            ([100, 1000], [40, 80]),
        ] {
            assert_eq!(shape_of(picture, &small), shape, "{picture:?}");
        }
        let wan = options([480, 832], 16);
        assert_eq!(shape_of([1080, 1920], &wan), [480, 832]);
        assert_eq!(shape_of([1024, 1024], &wan), [624, 624]);
        assert_eq!(shape_of([1920, 1080], &wan), [832, 480]);
        let one = SubjectOptions { buckets: None, ..small };
        assert_eq!(shape_of([320, 120], &one), [64, 64]);
        let single = SubjectOptions { buckets: Some(1.0), ..small };
        assert_eq!(shape_of([320, 120], &single), [64, 64]);
    }

    #[test]
    fn shapes_fit_the_base_and_its_memory() {
        for options in
            [options([64, 64], 8), options([480, 832], 16), options([704, 1280], 32), options([16, 24], 4)]
        {
            for [height, width] in shapes(&options) {
                let [tall, wide] = options.multiple;
                assert!(height % tall == 0 && width % wide == 0, "{height}x{width}");
                assert!(height * width <= options.size[0] * options.size[1], "{height}x{width}");
            }
        }
    }

    #[test]
    fn at_any_size_a_setting_is_named_that_keeps_more() {
        for (size, buckets, setting) in [
            ([16, 16], Some(2.0), "--set buckets=3 keeps more"),
            ([32, 32], Some(2.0), "--set buckets=2.5 keeps more"),
            ([8, 8], Some(2.0), "--height 24 --width 8 keep more"),
            ([8, 8], None, "--height 24 --width 8 keep more"),
            ([16, 16], None, "--height 24 --width 8 keep more"),
        ] {
            let own = SubjectOptions { buckets, ..options(size, 8) };
            let picture = [320, 120];
            let said = lost(picture, shape_of(picture, &own), &own).unwrap_or_default();
            assert!(said.contains(setting), "{size:?}: {said}");
            let with = match setting.strip_prefix("--set buckets=") {
                Some(rest) => {
                    let buckets = rest.split(' ').next().and_then(|text| text.parse().ok());
                    SubjectOptions { buckets, ..own }
                }
                None => SubjectOptions { size: [24, 8], ..own },
            };
            assert_eq!(lost(picture, shape_of(picture, &with), &with), None, "{size:?}");
        }
    }

    #[test]
    fn what_is_lost_is_said_with_what_keeps_it() {
        let small = options([64, 64], 8);
        assert_eq!(lost([768, 1024], [56, 72], &small), None);
        let said = lost([480, 120], [80, 40], &small).unwrap_or_default();
        assert!(
            said.starts_with("50 % of its height, cut to 40x80") && said.contains("--set buckets=4"),
            "{said}"
        );
        let wider = SubjectOptions { buckets: Some(4.0), ..small };
        assert_eq!(lost([480, 120], shape_of([480, 120], &wider), &wider), None);
        let one = SubjectOptions { buckets: None, ..small };
        let said = lost([320, 120], [64, 64], &one).unwrap_or_default();
        assert!(said.contains("63 % of its height") && said.contains("--height 80 --width 32"), "{said}");
    }
}
