//! Text as a terminal would show it in the end.

use std::borrow::Cow;

/// The text without what was written over, and without colours and the like.
///
/// Knows a carriage return, a backspace, and of the escape sequences those that move the cursor or
/// clear something; the rest is left out. A cursor cannot go above the text's first line.
pub(super) fn shown(text: &str) -> Cow<'_, str> {
    if !text.contains(['\r', '\x1b', '\x08']) {
        return Cow::Borrowed(text);
    }
    let mut screen = Screen { lines: vec![Vec::new()], row: 0, column: 0 };
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\n' => screen.down(1),
            '\r' => screen.column = 0,
            '\x08' => screen.column = screen.column.saturating_sub(1),
            '\x1b' => screen.escape(&mut chars),
            c => screen.put(c),
        }
    }
    let end = if text.ends_with('\n') { "\n" } else { "" };
    let lines = screen.lines.iter().map(|line| line.iter().collect::<String>());
    let lines = lines.map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n");
    Cow::Owned(lines.trim_end_matches('\n').to_owned() + end)
}

struct Screen {
    lines: Vec<Vec<char>>,
    row: usize,
    column: usize,
}

impl Screen {
    fn put(&mut self, c: char) {
        let line = &mut self.lines[self.row];
        if line.len() < self.column {
            line.resize(self.column, ' ');
        }
        match line.get_mut(self.column) {
            Some(place) => *place = c,
            None => line.push(c),
        }
        self.column += 1;
    }

    fn down(&mut self, count: usize) {
        self.row += count;
        if self.lines.len() <= self.row {
            self.lines.resize(self.row + 1, Vec::new());
        }
        self.column = 0;
    }

    /// Takes an escape sequence, whose first character has been taken.
    fn escape(&mut self, chars: &mut std::str::Chars<'_>) {
        /// No terminal has more; a number that is larger is nonsense, and would take memory.
        const FAR: usize = 200;
        match chars.next() {
            Some('[') => {
                let mut parameters = String::new();
                let end = chars.find(|&c| {
                    let is_end = ('@'..='~').contains(&c);
                    if !is_end {
                        parameters.push(c);
                    }
                    is_end
                });
                let number: Option<usize> =
                    parameters.split(';').next().and_then(|first| first.parse().ok());
                let count = number.unwrap_or(1).min(FAR);
                match end {
                    Some('A') => self.row = self.row.saturating_sub(count),
                    // Down to what there is: a terminal does not scroll by this.
                    Some('B') => self.row = (self.row + count).min(self.lines.len() - 1),
                    Some('C') if self.column < FAR => self.column += count,
                    Some('D') => self.column = self.column.saturating_sub(count),
                    Some('G') => self.column = count.saturating_sub(1),
                    Some('K') => self.clear(number.unwrap_or(0)),
                    Some('J') if number.is_some_and(|number| number >= 2) => {
                        *self = Self { lines: vec![Vec::new()], row: 0, column: 0 };
                    }
                    _ => {}
                }
            }
            // A title, a link or the like: up to its terminator.
            Some(']') => {
                while let Some(c) = chars.next() {
                    if c == '\x07' || c == '\x1b' && chars.next() == Some('\\') {
                        break;
                    }
                }
            }
            _ => {}
        }
    }

    fn clear(&mut self, which: usize) {
        let line = &mut self.lines[self.row];
        match which {
            0 => line.truncate(self.column),
            1 => line.iter_mut().take(self.column + 1).for_each(|place| *place = ' '),
            _ => line.clear(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn what_was_written_over_is_gone() {
        for (text, seen) in [
            ("plain\n", "plain\n"),
            ("dos\r\nlines\r\n", "dos\nlines\n"),
            (" 10%|#   |\r 50%|##  |\r100%|####|\n", "100%|####|\n"),
            ("\rlonger text\rshort", "shortr text"),
            ("working\r\x1b[Kdone\n", "done\n"),
            ("a\x08b", "b"),
            ("\x1b[31mred\x1b[0m and \x1b]0;title\x07plain", "red and plain"),
            ("outer 0\ninner 0\x1b[A\router 1\n\rinner 9\n", "outer 1\ninner 9\n"),
            ("one\ntwo\x1b[2Jthree", "three"),
            ("cut \x1b[3", "cut"),
            ("\x1b[5B.", "."),
        ] {
            assert_eq!(shown(text), seen, "{text:?}");
        }
        let far = "\x1b[99999999C".repeat(1000) + ".";
        assert!(shown(&far).len() < 1000);
    }
}
