//! Text on its way into an [`Execution`](super::Execution): bounded, and valid UTF-8.

use std::fmt;

use super::{MimeBundle, Output, OutputRef, StdStream};

/// How many bytes of one variable's `repr` are shown.
pub(super) const SHOWN: usize = 1000;

/// Gathers the outputs of one cell, up to a number of bytes, and shows them as they come.
pub(super) struct Gatherer<'a> {
    outputs: Vec<Output>,
    room: usize,
    truncated: bool,
    on_output: &'a mut dyn FnMut(OutputRef<'_>),
    showing: bool,
}

impl<'a> Gatherer<'a> {
    pub(super) fn new(room: usize, on_output: &'a mut dyn FnMut(OutputRef<'_>)) -> Self {
        Self { outputs: Vec::new(), room, truncated: false, on_output, showing: false }
    }

    /// Whether `on_output` has not come back: after a panic, whether that was its own.
    pub(super) fn is_showing(&self) -> bool {
        self.showing
    }

    fn show(&mut self, output: OutputRef<'_>) {
        self.showing = true;
        (self.on_output)(output);
        self.showing = false;
    }

    pub(super) fn text(&mut self, stream: StdStream, text: &str) {
        let kept = cut(text, self.room);
        self.truncated |= kept.len() < text.len();
        self.room = if self.truncated { 0 } else { self.room - kept.len() };
        if kept.is_empty() {
            return;
        }
        self.show(match stream {
            StdStream::Stdout => OutputRef::Stdout(kept),
            StdStream::Stderr => OutputRef::Stderr(kept),
        });
        match (stream, self.outputs.last_mut()) {
            (StdStream::Stdout, Some(Output::Stdout { text }))
            | (StdStream::Stderr, Some(Output::Stderr { text })) => text.push_str(kept),
            (StdStream::Stdout, _) => self.outputs.push(Output::Stdout { text: kept.into() }),
            (StdStream::Stderr, _) => self.outputs.push(Output::Stderr { text: kept.into() }),
        }
    }

    pub(super) fn display(&mut self, data: MimeBundle, size: usize) {
        if self.room < size {
            self.truncated = true;
        } else {
            self.room -= size;
            self.show(OutputRef::Display(&data));
            self.outputs.push(Output::Display { data });
        }
    }

    /// The outputs, and whether some were left out.
    pub(super) fn finish(self) -> (Vec<Output>, bool) {
        (self.outputs, self.truncated)
    }
}

impl fmt::Debug for Gatherer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { outputs, room, truncated, .. } = self;
        f.debug_struct("Gatherer")
            .field("outputs", &outputs.len())
            .field("room", room)
            .field("truncated", truncated)
            .finish_non_exhaustive()
    }
}

/// The longest beginning of `text` that has at most `bytes` bytes.
pub(super) fn cut(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Decodes UTF-8 that arrives in pieces; what is not UTF-8 becomes U+FFFD.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// The beginning of a character whose end has not arrived: at most three bytes.
    tail: Vec<u8>,
}

impl Decoder {
    pub(super) fn decode(&mut self, bytes: &[u8]) -> String {
        self.tail.extend_from_slice(bytes);
        let mut text = String::with_capacity(self.tail.len());
        let mut rest = 0;
        for chunk in self.tail.utf8_chunks() {
            text.push_str(chunk.valid());
            rest += chunk.valid().len() + chunk.invalid().len();
            let cut_short = rest == self.tail.len()
                && std::str::from_utf8(chunk.invalid()).is_err_and(|e| e.error_len().is_none());
            if cut_short {
                rest -= chunk.invalid().len();
            } else if !chunk.invalid().is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        self.tail.drain(..rest);
        text
    }

    /// What remains when nothing more will come.
    pub(super) fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.tail)).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_in_two_pieces_is_one_character() {
        let mut decoder = Decoder::default();
        let crab = "🦀".as_bytes();
        assert_eq!(decoder.decode(b"a"), "a");
        for &byte in &crab[..3] {
            assert_eq!(decoder.decode(&[byte]), "");
        }
        assert_eq!(decoder.decode(&[crab[3], b'b']), "🦀b");
        assert_eq!(decoder.decode(&[0xff, b'c', 0xe2, 0x82]), "\u{fffd}c");
        assert_eq!(decoder.finish(), "\u{fffd}");
        assert_eq!(decoder.finish(), "");
    }

    #[test]
    fn text_over_the_limit_is_cut_at_a_character() {
        let mut shown = String::new();
        let mut show = |output: OutputRef<'_>| {
            if let OutputRef::Stdout(text) | OutputRef::Stderr(text) = output {
                shown.push_str(text);
            }
        };
        let mut gatherer = Gatherer::new(7, &mut show);
        gatherer.text(StdStream::Stdout, "aé");
        gatherer.text(StdStream::Stdout, "b");
        gatherer.text(StdStream::Stderr, "é€");
        gatherer.text(StdStream::Stdout, "z"); // it would fit, and be taken for what came next
        let (outputs, truncated) = gatherer.finish();
        assert!(truncated);
        assert_eq!(shown, "aébé");
        assert_eq!(
            outputs,
            [Output::Stdout { text: "aéb".into() }, Output::Stderr { text: "é".into() }]
        );
    }
    #[test]
    fn data_takes_room_and_is_whole_or_not_there() {
        let mut ignore = |_: OutputRef<'_>| {};
        let mut gatherer = Gatherer::new(10, &mut ignore);
        let data = MimeBundle::from([("text/plain".to_owned(), "1".into())]);
        gatherer.display(data.clone(), 6);
        gatherer.display(data.clone(), 5);
        gatherer.text(StdStream::Stdout, "four, and more");
        let (outputs, truncated) = gatherer.finish();
        assert!(truncated);
        assert_eq!(outputs, [Output::Display { data }, Output::Stdout { text: "four".into() }]);
    }
}
