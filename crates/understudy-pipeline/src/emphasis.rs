//! Weights in prompts, as ComfyUI and others write them: `a (red:1.3) ball`.

/// What a group in brackets counts without a number.
const BRACKETS: f32 = 1.1;

/// A prompt taken apart: pieces of text, each with its weight.
///
/// `(text:1.3)` counts 1.3 times, whatever is around it; `(text)` 1.1 times what is around it; `\(` and `\)`
/// are brackets. A bracket without its other half is one, too.
pub(crate) fn parse(prompt: &str) -> Vec<(String, f32)> {
    let mut parser = Parser { pieces: Vec::new(), text: String::new(), groups: Vec::new() };
    let mut characters = prompt.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' if matches!(characters.peek(), Some('(' | ')')) => parser.text.extend(characters.next()),
            '(' => parser.open(),
            ')' if !parser.groups.is_empty() => parser.close(),
            other => parser.text.push(other),
        }
    }
    parser.flush();
    let mut pieces: Vec<(String, f32)> =
        parser.pieces.into_iter().map(|piece| (piece.text, piece.weight)).collect();
    // From the last to the first, so that places stay what they are.
    for &start in parser.groups.iter().rev() {
        pieces.insert(start, ("(".to_owned(), 1.0));
    }
    pieces
}

struct Piece {
    text: String,
    weight: f32,
    /// Whether a group around it has said a number, after which outer groups do not count.
    said: bool,
}

struct Parser {
    pieces: Vec<Piece>,
    text: String,
    /// Where the pieces of each open group begin.
    groups: Vec<usize>,
}

impl Parser {
    fn flush(&mut self) {
        if !self.text.is_empty() {
            self.pieces.push(Piece { text: std::mem::take(&mut self.text), weight: 1.0, said: false });
        }
    }

    fn open(&mut self) {
        self.flush();
        self.groups.push(self.pieces.len());
    }

    fn close(&mut self) {
        let number = self.text.rsplit_once(':').and_then(|(text, number)| {
            let number = number.trim().parse::<f32>().ok().filter(|number| number.is_finite())?;
            Some((text.to_owned(), number))
        });
        let (weight, said) = match number {
            Some((text, number)) => {
                self.text = text;
                (number, true)
            }
            None => (BRACKETS, false),
        };
        self.flush();
        let start = self.groups.pop().unwrap_or(0);
        for piece in self.pieces[start..].iter_mut().filter(|piece| !piece.said) {
            piece.weight *= weight;
            piece.said = said;
        }
    }
}

/// The pieces as one text of single spaces, and where in it each weight ends, in bytes.
pub(crate) fn joined(pieces: Vec<(String, f32)>) -> (String, Vec<(usize, f32)>) {
    let mut text = String::new();
    let mut ends = Vec::new();
    for (piece, weight) in pieces {
        let own = if text.is_empty() || text.ends_with(' ') { piece.trim_start() } else { &piece };
        text.push_str(own);
        ends.push((text.len(), weight));
    }
    text.truncate(text.trim_end().len());
    (text, ends)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(prompt: &str) -> Vec<(String, f32)> {
        parse(prompt)
    }

    #[test]
    fn groups_have_weights() {
        let pieces = |own: &[(&str, f32)]| -> Vec<(String, f32)> {
            own.iter().map(|(text, weight)| ((*text).to_owned(), *weight)).collect()
        };
        assert_eq!(read("a ball"), pieces(&[("a ball", 1.0)]));
        assert_eq!(read("a (red:1.5) ball"), pieces(&[("a ", 1.0), ("red", 1.5), (" ball", 1.0)]));
        assert_eq!(read("(a)"), pieces(&[("a", 1.1)]));
        assert_eq!(read("((a:2) b:0.5)"), pieces(&[("a", 2.0), (" b", 0.5)]));
        assert_eq!(read("((a) b:0.5)"), pieces(&[("a", 0.55), (" b", 0.5)]));
        assert_eq!(read("((a:2))"), pieces(&[("a", 2.0)]));
        assert_eq!(read(r"\(a\)"), pieces(&[("(a)", 1.0)]));
        assert_eq!(read("a) b"), pieces(&[("a) b", 1.0)]));
        assert_eq!(read("a (b"), pieces(&[("a ", 1.0), ("(", 1.0), ("b", 1.0)]));
        assert_eq!(read("(at 5:30 pm:1.2)"), pieces(&[("at 5:30 pm", 1.2)]));
        assert_eq!(read(""), []);
    }

    #[test]
    fn joined_pieces_have_single_spaces() {
        let (text, ends) = joined(read("a ( red :1.5) ball "));
        assert_eq!(text, "a red ball");
        assert_eq!(ends.iter().map(|(_, weight)| *weight).collect::<Vec<_>>(), [1.0, 1.5, 1.0]);
        assert_eq!(&text[..ends[0].0], "a ");
    }
}
