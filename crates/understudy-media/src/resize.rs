//! Cover-crop: the largest centred part of a picture with the wanted aspect, resized with an antialiased
//! filter.

use fast_image_resize::images::{Image as Buffer, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use crate::{Error, Image, Mask, Picture, Result, Video};

impl Image {
    /// The centre of the picture that has the aspect of `[height, width]`, resized to it (Lanczos-3,
    /// antialiased).
    ///
    /// # Errors
    /// [`Error::Invalid`] when a side is zero or the picture is inconsistent.
    pub fn cover_crop(&self, [height, width]: [usize; 2]) -> Result<Self> {
        self.check()?;
        let rgb = cover(&self.rgb, [self.height, self.width], [height, width], PixelType::U8x3)?;
        Ok(Self { width, height, rgb })
    }

    /// Resized to `[height, width]`, aspect not kept (Lanczos-3, antialiased).
    ///
    /// # Errors
    /// [`Error::Invalid`] when a side is zero or the picture is inconsistent.
    pub fn resize(&self, [height, width]: [usize; 2]) -> Result<Self> {
        self.check()?;
        let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Lanczos3));
        let from = [self.height, self.width];
        let rgb = run(&self.rgb, from, [height, width], PixelType::U8x3, &options)?;
        Ok(Self { width, height, rgb })
    }
}

impl Mask {
    /// As [`Image::cover_crop`], so that the mask stays on its picture.
    ///
    /// # Errors
    /// [`Error::Invalid`] when a side is zero or the mask is inconsistent.
    pub fn cover_crop(&self, [height, width]: [usize; 2]) -> Result<Self> {
        let alpha = cover(&self.alpha, [self.height, self.width], [height, width], PixelType::U8)?;
        Ok(Self { width, height, alpha })
    }
}

impl Picture {
    /// [`Image::cover_crop`] of picture and mask together.
    ///
    /// # Errors
    /// As [`Image::cover_crop`].
    pub fn cover_crop(&self, size: [usize; 2]) -> Result<Self> {
        Ok(Self {
            image: self.image.cover_crop(size)?,
            mask: self.mask.as_ref().map(|mask| mask.cover_crop(size)).transpose()?,
        })
    }
}

impl Video {
    /// [`Image::cover_crop`] of every frame.
    ///
    /// # Errors
    /// As [`Image::cover_crop`].
    pub fn cover_crop(&self, size: [usize; 2]) -> Result<Self> {
        let frames = self.frames.iter().map(|frame| frame.cover_crop(size)).collect::<Result<_>>()?;
        Ok(Self { frames, fps: self.fps })
    }
}

/// One plane of samples resized from `[height, width]` (Catmull-Rom, antialiased).
pub(crate) fn resize_plane(samples: &[u8], from: [usize; 2], to: [usize; 2]) -> Result<Vec<u8>> {
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom));
    run(samples, from, to, PixelType::U8, &options)
}

fn cover(samples: &[u8], from: [usize; 2], to: [usize; 2], pixel: PixelType) -> Result<Vec<u8>> {
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::Lanczos3))
        .fit_into_destination(Some((0.5, 0.5)));
    run(samples, from, to, pixel, &options)
}

fn run(
    samples: &[u8],
    [height, width]: [usize; 2],
    [to_height, to_width]: [usize; 2],
    pixel: PixelType,
    options: &ResizeOptions,
) -> Result<Vec<u8>> {
    let wrong = |reason: String| Error::invalid("resize", reason);
    let side = |n: usize| match u32::try_from(n) {
        Ok(n) if (1..=65_535).contains(&n) => Ok(n),
        _ => Err(wrong(format!("a side of {n} pixels is outside 1..=65535"))),
    };
    let source =
        ImageRef::new(side(width)?, side(height)?, samples, pixel).map_err(|e| wrong(e.to_string()))?;
    let mut target = Buffer::new(side(to_width)?, side(to_height)?, pixel);
    Resizer::new().resize(&source, &mut target, options).map_err(|e| wrong(e.to_string()))?;
    Ok(target.into_vec())
}
