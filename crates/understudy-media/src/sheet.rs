//! Contact sheets: clips and pictures laid out in a table with a title, column heads, row labels and
//! captions.

use crate::font::Style;
use crate::{Error, Image, Result, Video};

const PAPER: [u8; 3] = [252, 252, 250];
const RULE: [u8; 3] = [222, 222, 216];
const TITLE: Style = Style { size: 24, color: [24, 24, 28] };
const HEAD: Style = Style { size: 16, color: [60, 90, 140] };
const LABEL: Style = Style { size: 16, color: [40, 40, 44] };
const CAPTION: Style = Style { size: 12, color: [110, 110, 116] };
/// Around the sheet.
const MARGIN: usize = 28;
/// Between the frames of one cell.
const FRAME_GAP: usize = 2;
/// The label column is at most this wide; longer labels wrap.
const LABEL_WIDTH: usize = 200;
/// The largest sheet, pixels.
const MAX_PIXELS: usize = 400_000_000;

/// A table of frames to look at. Everything is drawn by [`ContactSheet::render`].
///
/// ```
/// use understudy_media::{ContactSheet, Image, SheetRow, Video};
///
/// # fn main() -> Result<(), understudy_media::Error> {
/// let clip = Video::new(vec![Image::filled(64, 64, [200, 80, 40]); 9], 8.0)?;
/// let sheet = ContactSheet {
///     title: "A fox in the snow".into(),
///     head: vec!["reference".into(), "generated".into()],
///     rows: vec![
///         SheetRow::new("base").cell(clip.frames[0].clone()).cell((&clip, 4)).caption("seed 1"),
///         SheetRow::new("adapter").cell(clip.frames[0].clone()).cell((&clip, 4)).caption("seed 1"),
///     ],
///     scale: 2,
///     ..ContactSheet::default()
/// };
/// let picture = sheet.render()?;
/// # assert!(picture.width > 2 * 64 * 5);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct ContactSheet {
    /// Above everything; may be empty.
    pub title: String,
    /// Column heads, one for each cell of a row; may be empty.
    pub head: Vec<String>,
    /// The rows, top to bottom.
    pub rows: Vec<SheetRow>,
    /// Nearest-neighbour enlargement of every frame.
    pub scale: usize,
    /// Space between cells, pixels.
    pub gap: usize,
}

/// A row: its label to the left, its cells, its caption below them.
#[derive(Debug, Clone, Default)]
pub struct SheetRow {
    /// To the left of the cells; wraps.
    pub label: String,
    /// Below the cells, in grey; wraps. A prompt, say.
    pub caption: String,
    /// The cells, left to right.
    pub cells: Vec<SheetCell>,
}

/// Frames set close together.
#[derive(Debug, Clone, Default)]
pub struct SheetCell {
    /// The frames, left to right.
    pub frames: Vec<Image>,
}

impl Default for ContactSheet {
    fn default() -> Self {
        Self { title: String::new(), head: Vec::new(), rows: Vec::new(), scale: 1, gap: 16 }
    }
}

impl SheetRow {
    /// A row without cells yet.
    pub fn new(label: impl Into<String>) -> Self {
        Self { label: label.into(), ..Self::default() }
    }

    /// Adds a cell: a picture, or `(&video, count)` for `count` frames spread evenly over a clip.
    pub fn cell(mut self, cell: impl Into<SheetCell>) -> Self {
        self.cells.push(cell.into());
        self
    }

    /// Sets the caption.
    pub fn caption(mut self, caption: impl Into<String>) -> Self {
        self.caption = caption.into();
        self
    }
}

impl From<Image> for SheetCell {
    fn from(image: Image) -> Self {
        Self { frames: vec![image] }
    }
}

impl From<(&Video, usize)> for SheetCell {
    /// `count` frames from the first to the last, evenly spread; all of them when there are fewer.
    fn from((video, count): (&Video, usize)) -> Self {
        let last = video.frames.len().saturating_sub(1);
        let count = count.min(video.frames.len());
        let index = |i: usize| {
            if count > 1 { (i * last + (count - 1) / 2) / (count - 1) } else { 0 }
        };
        Self { frames: (0..count).map(|i| video.frames[index(i)].clone()).collect() }
    }
}

impl SheetCell {
    fn size(&self, scale: usize) -> [usize; 2] {
        let width: usize = self.frames.iter().map(|frame| frame.width * scale + FRAME_GAP).sum();
        let height = self.frames.iter().map(|frame| frame.height * scale).max();
        [width.saturating_sub(FRAME_GAP), height.unwrap_or(0)]
    }
}

/// Where everything goes; computed before anything is drawn.
struct Layout {
    label_width: usize,
    column_widths: Vec<usize>,
    head: Vec<Vec<String>>,
    rows: Vec<RowLayout>,
    title: Vec<String>,
    size: [usize; 2],
}

struct RowLayout {
    label: Vec<String>,
    caption: Vec<String>,
    content_height: usize,
}

impl ContactSheet {
    /// Draws the sheet.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there is no frame to show, a frame is inconsistent, `scale` is not within
    /// 1..=64, or the sheet would exceed 400 megapixels.
    pub fn render(&self) -> Result<Image> {
        for frame in self.rows.iter().flat_map(|row| &row.cells).flat_map(|cell| &cell.frames) {
            frame.check()?;
        }
        if self.rows.iter().all(|row| row.cells.iter().all(|cell| cell.frames.is_empty())) {
            return Err(Error::invalid("contact sheet", "has no frame; add cells to its rows"));
        }
        if !(1..=64).contains(&self.scale) || self.gap > 1024 {
            let reason =
                format!("scale {} is not within 1 and 64, or gap {} above 1024", self.scale, self.gap);
            return Err(Error::invalid("contact sheet", reason));
        }
        let layout = self.layout();
        let [width, height] = layout.size;
        if width.saturating_mul(height) > MAX_PIXELS {
            let reason =
                format!("{width}x{height} pixels is too large; show fewer frames or lower the scale");
            return Err(Error::invalid("contact sheet", reason));
        }
        let mut sheet = Image::filled(width, height, PAPER);
        let mut y = draw_lines(&mut sheet, TITLE, MARGIN, MARGIN, &layout.title);
        if !layout.title.is_empty() {
            y += self.gap / 2;
        }
        y = self.draw_head(&mut sheet, &layout, y);
        for (row, place) in self.rows.iter().zip(&layout.rows) {
            y = self.draw_row(&mut sheet, &layout, row, place, y);
        }
        Ok(sheet)
    }

    fn layout(&self) -> Layout {
        let columns = self.rows.iter().map(|row| row.cells.len()).max().unwrap_or(0);
        let column_widths: Vec<usize> = (0..columns)
            .map(|i| {
                let cells = self.rows.iter().filter_map(|row| row.cells.get(i));
                let head = self.head.get(i).map_or("", String::as_str);
                let longest_word = head.split_whitespace().map(|word| HEAD.width(word)).max();
                let widest_cell = cells.map(|cell| cell.size(self.scale)[0]).max();
                widest_cell.max(longest_word).unwrap_or(0)
            })
            .collect();
        let label_width =
            self.rows.iter().map(|row| LABEL.width(&row.label)).max().unwrap_or(0).min(LABEL_WIDTH);
        let label_space = if label_width > 0 { label_width + self.gap } else { 0 };
        let cells_width = column_widths.iter().map(|width| width + self.gap).sum::<usize>() - self.gap;
        let inner = (label_space + cells_width).max(TITLE.width(&self.title).min(480));
        let rows: Vec<RowLayout> = self
            .rows
            .iter()
            .map(|row| {
                let label = LABEL.wrap(&row.label, label_width.max(1));
                let cells = row.cells.iter().map(|cell| cell.size(self.scale)[1]).max().unwrap_or(0);
                RowLayout {
                    content_height: cells.max(label.len() * LABEL.line_height()),
                    caption: CAPTION.wrap(&row.caption, inner - label_space),
                    label,
                }
            })
            .collect();
        let head: Vec<_> =
            self.head.iter().zip(&column_widths).map(|(text, width)| HEAD.wrap(text, *width)).collect();
        let title = TITLE.wrap(&self.title, inner);

        let title_height =
            title.len() * TITLE.line_height() + if title.is_empty() { 0 } else { self.gap / 2 };
        let head_height = head_lines(&head) * HEAD.line_height();
        let rows_height: usize = rows.iter().map(|row| self.row_height(row)).sum();
        let size = [inner + 2 * MARGIN, title_height + head_height + rows_height + 2 * MARGIN];
        Layout { label_width: label_space, column_widths, head, rows, title, size }
    }

    /// Rule, space, cells, caption, space.
    fn row_height(&self, row: &RowLayout) -> usize {
        self.gap + row.content_height + caption_height(row)
    }

    fn draw_head(&self, sheet: &mut Image, layout: &Layout, y: usize) -> usize {
        let mut x = MARGIN + layout.label_width;
        for (lines, width) in layout.head.iter().zip(&layout.column_widths) {
            draw_lines(sheet, HEAD, x, y, lines);
            x += width + self.gap;
        }
        y + head_lines(&layout.head) * HEAD.line_height()
    }

    fn draw_row(
        &self,
        sheet: &mut Image,
        layout: &Layout,
        row: &SheetRow,
        place: &RowLayout,
        y: usize,
    ) -> usize {
        let right = layout.size[0] - 2 * MARGIN;
        sheet.fill_rect([MARGIN, y + self.gap / 2 - self.gap.min(2) / 2], [right, 1], RULE);
        let top = y + self.gap;
        draw_lines(sheet, LABEL, MARGIN, top, &place.label);
        let mut left = MARGIN + layout.label_width;
        for (cell, width) in row.cells.iter().zip(&layout.column_widths) {
            let mut x = left;
            for frame in &cell.frames {
                sheet.paste(&frame.upscale_nearest(self.scale), x, top);
                x += frame.width * self.scale + FRAME_GAP;
            }
            left += width + self.gap;
        }
        let below = top + place.content_height + CAPTION.size / 2;
        draw_lines(sheet, CAPTION, MARGIN + layout.label_width, below, &place.caption);
        y + self.row_height(place)
    }
}

fn head_lines(head: &[Vec<String>]) -> usize {
    head.iter().map(Vec::len).max().unwrap_or(0)
}

fn caption_height(row: &RowLayout) -> usize {
    match row.caption.len() {
        0 => 0,
        lines => lines * CAPTION.line_height() + CAPTION.size / 2,
    }
}

/// Draws lines downwards; the vertical position after them.
fn draw_lines(sheet: &mut Image, style: Style, x: usize, y: usize, lines: &[String]) -> usize {
    for (index, line) in lines.iter().enumerate() {
        style.draw(sheet, x, y + index * style.line_height(), line);
    }
    y + lines.len() * style.line_height()
}
