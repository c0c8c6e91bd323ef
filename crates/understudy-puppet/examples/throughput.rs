//! Prints how many clips of 17x64x64 two threads render in a second.

use std::time::Instant;

use rayon::prelude::*;
use understudy_puppet::{Size, Split, World};

fn main() -> anyhow::Result<()> {
    const CLIPS: u64 = 1000;
    let world = World::new(Size::default())?;
    for threads in [1, 2] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        let start = Instant::now();
        let bytes: usize = pool.install(|| {
            let clips = (0..CLIPS).into_par_iter();
            clips.map(|index| world.render(&world.scenario(Split::Train, index)).frames.len()).sum()
        });
        let seconds = start.elapsed().as_secs_f64();
        let rate = CLIPS as f64 / seconds;
        println!("{threads} thread(s): {rate:.0} clips/s ({bytes} bytes in {seconds:.2} s)");
    }
    Ok(())
}
