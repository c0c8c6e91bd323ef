//! Writes the pictures of `docs/puppet-world.md` to a folder (default `docs/images`) and prints the captions
//! of the clips.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{RgbImage, imageops};
use understudy_puppet::{
    Action, Class, Clip, Identity, Light, Motion, Quirk, Scenario, Scene, Size, Split, Style, World,
};

/// Pixels between pictures.
const GAP: usize = 2;
/// How many times the pictures are enlarged.
const ENLARGE: u32 = 2;

fn main() -> anyhow::Result<()> {
    let folder = std::env::args().nth(1).map_or_else(|| PathBuf::from("docs/images"), PathBuf::from);
    std::fs::create_dir_all(&folder)?;
    let world = World::new(Size::default())?;
    let photo = World::new(Size::new(1, 64, 64))?;

    let clips: Vec<_> = (0..12)
        .map(|index| world.render(&world.scenario(Split::Train, index)))
        .inspect(|clip| println!("{}", clip.caption))
        .map(|clip| every_fourth(&clip))
        .collect();
    save(&folder, "clips", &clips)?;

    let masks: Vec<_> = (0..200)
        .map(|index| world.scenario(Split::HeldOut, index))
        .filter(|scenario| {
            scenario.actors.len() == 2 || scenario.actors.iter().any(|actor| actor.object.is_some())
        })
        .take(6)
        .map(|scenario| masked(&world.render(&scenario)))
        .collect();
    save(&folder, "masks", &masks)?;

    let identities: Vec<_> = Class::ALL
        .map(|class| {
            (0..8)
                .map(|index| Identity::of_class(class, Split::Train, index))
                .map(|identity| {
                    let standing = Motion { sway: 0, ..Motion::new(Action::Nod) };
                    let mut scenario = Scenario::solo(identity, standing, Scene::Meadow, 3);
                    scenario.actors[0].x = 500;
                    frame(&photo.render(&scenario), 0)
                })
                .collect()
        })
        .to_vec();
    save(&folder, "identities", &identities)?;

    let hero = |index: usize| Identity::from_index(Split::Train, index as u64);
    let waving = |index: usize, scene| Scenario::solo(hero(index), Motion::new(Action::Wave), scene, 5);
    let scenes: Vec<_> = Scene::ALL
        .map(|scene| {
            let looks = Light::ALL.map(|light| waving(scene.index(), scene).with_light(light));
            looks.map(|scenario| frame(&photo.render(&scenario), 0)).to_vec()
        })
        .to_vec();
    save(&folder, "scenes", &scenes)?;
    let styles: Vec<_> = Style::ALL
        .map(|style| {
            let looks = Scene::ALL.map(|scene| waving(12 + scene.index(), scene).with_style(style));
            looks.iter().take(8).map(|scenario| frame(&photo.render(scenario), 0)).collect()
        })
        .to_vec();
    save(&folder, "styles", &styles)?;

    let actions: Vec<_> = Action::ALL.map(|action| performance(&world, Motion::new(action))).to_vec();
    save(&folder, "actions", &actions)?;
    let quirks: Vec<_> =
        (0..Quirk::COUNT as u64).map(|index| performance(&world, Motion::idiosyncratic(index))).collect();
    save(&folder, "quirks", &quirks)?;

    let portraits: Vec<_> = (0..6)
        .map(|index| {
            let subject = Identity::from_index(Split::HeldOut, index);
            (0..8).map(|seed| frame(&photo.render(&Scenario::portrait(subject, seed)), 0)).collect()
        })
        .collect();
    save(&folder, "portraits", &portraits)
}

/// A character of the action's own performing it, every second frame.
fn performance(world: &World, motion: Motion) -> Vec<RgbImage> {
    let hero = Identity::from_index(Split::Train, 40 + motion.action.index() as u64);
    let clip = world.render(&Scenario::solo(hero, motion, Scene::Meadow, 1));
    (0..9).map(|index| frame(&clip, 2 * index)).collect()
}

fn every_fourth(clip: &Clip) -> Vec<RgbImage> {
    (0..clip.size.frames).step_by(4).map(|index| frame(clip, index)).collect()
}

/// Frames, each followed by the masks of all actors, the first in red, the second in green.
fn masked(clip: &Clip) -> Vec<RgbImage> {
    let Size { height, width, .. } = clip.size;
    let overlay = |index: usize| {
        let mut picture = RgbImage::new(width as u32, height as u32);
        for (at, pixel) in picture.pixels_mut().enumerate() {
            for (channel, mask) in clip.masks.iter().enumerate() {
                pixel.0[channel] = mask[index * height * width + at];
            }
        }
        picture
    };
    [0, 5, 10, 15].into_iter().flat_map(|index| [frame(clip, index), overlay(index)]).collect()
}

fn frame(clip: &Clip, index: usize) -> RgbImage {
    let Size { height, width, .. } = clip.size;
    let length = height * width * 3;
    let pixels = &clip.frames[index * length..(index + 1) * length];
    RgbImage::from_fn(width as u32, height as u32, |x, y| {
        let at = (y as usize * width + x as usize) * 3;
        image::Rgb([pixels[at], pixels[at + 1], pixels[at + 2]])
    })
}

/// Lays rows of equally large pictures out on white and saves them enlarged.
fn save(folder: &Path, name: &str, rows: &[Vec<RgbImage>]) -> anyhow::Result<()> {
    let Some(first) = rows.iter().flatten().next() else { anyhow::bail!("no pictures for {name}") };
    let (step_x, step_y) = (first.width() as usize + GAP, first.height() as usize + GAP);
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let size = |step: usize, count: usize| (step * count - GAP) as u32;
    let mut sheet =
        RgbImage::from_pixel(size(step_x, columns), size(step_y, rows.len()), image::Rgb([255; 3]));
    for (y, row) in rows.iter().enumerate() {
        for (x, picture) in row.iter().enumerate() {
            imageops::replace(&mut sheet, picture, (x * step_x) as i64, (y * step_y) as i64);
        }
    }
    let (width, height) = (sheet.width() * ENLARGE, sheet.height() * ENLARGE);
    let sheet = imageops::resize(&sheet, width, height, imageops::FilterType::Nearest);
    let file = BufWriter::new(File::create(folder.join(format!("puppet-{name}.png")))?);
    // Enlarged flat colours compress best as they are.
    let encoder = PngEncoder::new_with_quality(file, CompressionType::Best, FilterType::NoFilter);
    sheet.write_with_encoder(encoder)?;
    Ok(())
}
