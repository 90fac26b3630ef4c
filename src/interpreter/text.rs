//! Text on its way into an [`Execution`](super::Execution): bounded, and valid UTF-8.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::{fmt, mem};

use serde_json::Value;

use super::{Cut, ExecuteOptions, Keep, MimeBundle, Omitted, Output, OutputRef, StdStream};

/// The form that every value has.
const PLAIN: &str = "text/plain";

/// How many bytes of one variable's `repr` are shown.
pub(super) const SHOWN: usize = 1000;

/// Gathers the outputs of one cell, up to a number of bytes, and shows them as they come.
///
/// Text goes to the head until that is full, then to the tail, whose oldest text makes room for what
/// is newer. Data is whole or not there, and makes room for nothing.
pub(super) struct Gatherer<'a> {
    head: Vec<Output>,
    head_room: usize,
    tail: VecDeque<Output>,
    tail_room: usize,
    /// How many bytes of text there are in the tail.
    tail_size: usize,
    /// Text came that the head had no room for.
    head_is_full: bool,
    /// How many bytes of text are gone for good.
    gone: u64,
    data_room: usize,
    displays: usize,
    omitted: Vec<Omitted>,
    on_output: &'a mut dyn FnMut(OutputRef<'_>),
    showing: bool,
}

/// What was gathered.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) outputs: Vec<Output>,
    pub(super) cut: Option<Cut>,
    pub(super) omitted: Vec<Omitted>,
}

/// So often something is shown in a cell.
const MOST_DISPLAYS: usize = 20_000;
/// So much is named of what was left out.
const MOST_OMITTED: usize = 1000;

impl<'a> Gatherer<'a> {
    pub(super) fn new(
        options: &ExecuteOptions,
        on_output: &'a mut dyn FnMut(OutputRef<'_>),
    ) -> Self {
        let room = options.max_output;
        let tail_room = match options.keep {
            Keep::Head => 0,
            Keep::Tail => room,
            Keep::Both => room / 2,
        };
        Self {
            head: Vec::new(),
            head_room: room - tail_room,
            tail: VecDeque::new(),
            tail_room,
            tail_size: 0,
            head_is_full: false,
            gone: 0,
            data_room: options.max_data,
            displays: 0,
            omitted: Vec::new(),
            on_output,
            showing: false,
        }
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
        let kept = if self.head_is_full { "" } else { cut(text, self.head_room) };
        self.head_room -= kept.len();
        if !kept.is_empty() {
            self.show(piece(stream, kept));
            append(self.head.last_mut(), stream, kept)
                .unwrap_or_else(|output| self.head.push(output));
        }
        let rest = &text[kept.len()..];
        if rest.is_empty() {
            return;
        }
        self.fill_head();
        self.tail_size += rest.len();
        append(self.tail.back_mut(), stream, rest)
            .unwrap_or_else(|output| self.tail.push_back(output));
        // Not for every piece: what is dropped has to be moved out of the way each time.
        if self.tail_size / 2 > self.tail_room.max(1 << 12) {
            self.trim();
        }
    }

    /// No more goes to the head; what room it has left is the tail's.
    fn fill_head(&mut self) {
        self.head_is_full = true;
        if self.tail_room > 0 {
            self.tail_room += mem::take(&mut self.head_room);
        }
    }

    /// Drops the oldest text of the tail, as much as there is no room for.
    fn trim(&mut self) {
        let mut excess = self.tail_size.saturating_sub(self.tail_room);
        let mut at = 0;
        while excess > 0 && at < self.tail.len() {
            let (text, is_all) = match &mut self.tail[at] {
                Output::Stdout { text } | Output::Stderr { text } => (text, true),
                Output::Display { data } => {
                    let is_all = data.len() == 1;
                    let Some(Value::String(text)) = data.get_mut(PLAIN) else {
                        at += 1;
                        continue;
                    };
                    (text, is_all)
                }
            };
            let mut end = excess.min(text.len());
            while !text.is_char_boundary(end) {
                end += 1;
            }
            text.drain(..end);
            self.gone += end as u64;
            self.tail_size -= end;
            excess = excess.saturating_sub(end);
            let is_empty = text.is_empty();
            if is_empty && is_all {
                self.tail.remove(at);
            } else {
                at += 1;
            }
        }
    }

    /// Takes a value that was displayed, in all its forms.
    pub(super) fn display(&mut self, mut data: MimeBundle) {
        let mut plain = data.remove(PLAIN);
        // However little is in each: a cell may show nothing, without end.
        if self.displays == MOST_DISPLAYS {
            return self.omit(std::iter::once(Omitted { mime: PLAIN.to_owned(), bytes: 0 }));
        }
        self.displays += 1;
        let omitted = fit(&mut data, &mut self.data_room);
        self.omit(omitted);
        let mut is_last = self.head_is_full;
        if let Some(Value::String(text)) = &mut plain {
            let fits = !self.head_is_full && text.len() <= self.head_room;
            is_last = !fits;
            // Without a tail, its beginning is the last that the head takes.
            let takes_all = fits || self.tail_room > 0 || self.head_is_full;
            if !fits && takes_all {
                self.fill_head();
            }
            let room = match (self.head_is_full, fits) {
                (false, _) => self.head_room,
                (true, _) => self.tail_room,
            };
            let kept = cut(text, room).len();
            self.gone += (text.len() - kept) as u64;
            text.truncate(kept);
            if kept == 0 && !fits {
                plain = None;
            }
        }
        let size = plain.as_ref().and_then(Value::as_str).map_or(0, str::len);
        data.extend(plain.map(|plain| (PLAIN.to_owned(), plain)));
        if data.is_empty() {
            return;
        }
        if self.head_is_full {
            self.tail_size += size;
            self.tail.push_back(Output::Display { data });
            self.trim();
        } else {
            self.head_room -= size;
            self.show(OutputRef::Display(&data));
            self.head.push(Output::Display { data });
            self.head_is_full |= is_last;
        }
    }

    /// Where in the outputs what comes next will stand.
    #[cfg_attr(not(feature = "jupyter"), allow(dead_code))]
    pub(super) fn place(&self) -> usize {
        self.head.len()
    }

    /// Puts standard error where a [`place`](Self::place) was.
    #[cfg_attr(not(feature = "jupyter"), allow(dead_code))]
    pub(super) fn insert(&mut self, place: usize, text: &str) {
        if self.head_is_full || place >= self.head.len() {
            self.text(StdStream::Stderr, text);
            return;
        }
        let kept = cut(text, self.head_room);
        self.head_room -= kept.len();
        self.gone += (text.len() - kept.len()) as u64;
        self.show(OutputRef::Stderr(kept));
        self.head.insert(place, Output::Stderr { text: kept.to_owned() });
    }

    /// What was left out before it came here.
    pub(super) fn omit(&mut self, omitted: impl IntoIterator<Item = Omitted>) {
        let room = MOST_OMITTED.saturating_sub(self.omitted.len());
        self.omitted.extend(omitted.into_iter().take(room));
    }

    /// All that was gathered. The tail is shown now.
    pub(super) fn finish(mut self) -> Gathered {
        self.trim();
        let (mut outputs, tail) = (mem::take(&mut self.head), mem::take(&mut self.tail));
        let cut = (self.gone > 0).then_some(Cut { at: outputs.len(), bytes: self.gone });
        for output in tail {
            self.show(OutputRef::from(&output));
            let joined = match &output {
                // Beside the gap, two outputs of one stream stay two.
                _ if cut.is_some_and(|cut| cut.at == outputs.len()) => Err(output),
                Output::Stdout { text } => append(outputs.last_mut(), StdStream::Stdout, text),
                Output::Stderr { text } => append(outputs.last_mut(), StdStream::Stderr, text),
                Output::Display { .. } => Err(output),
            };
            joined.unwrap_or_else(|output| outputs.push(output));
        }
        Gathered { outputs, cut, omitted: self.omitted }
    }
}

/// Adds text to the last output, if that is of the same stream; else gives it back as another.
fn append(last: Option<&mut Output>, stream: StdStream, more: &str) -> Result<(), Output> {
    match (stream, last) {
        (StdStream::Stdout, Some(Output::Stdout { text }))
        | (StdStream::Stderr, Some(Output::Stderr { text })) => {
            text.push_str(more);
            Ok(())
        }
        (StdStream::Stdout, _) => Err(Output::Stdout { text: more.into() }),
        (StdStream::Stderr, _) => Err(Output::Stderr { text: more.into() }),
    }
}

fn piece(stream: StdStream, text: &str) -> OutputRef<'_> {
    match stream {
        StdStream::Stdout => OutputRef::Stdout(text),
        StdStream::Stderr => OutputRef::Stderr(text),
    }
}

/// Takes out of the forms what there is no room for: all of them, but text.
pub(super) fn fit(data: &mut MimeBundle, room: &mut usize) -> Vec<Omitted> {
    /// What a form takes that is next to nothing; else there would be no end of those.
    const LEAST: usize = 64;
    let mut omitted = Vec::new();
    data.retain(|mime, value| {
        if mime == PLAIN {
            return true;
        }
        let size = value.as_str().map_or_else(|| value.to_string().len(), str::len);
        let fits = size <= *room;
        if fits {
            *room = room.saturating_sub(size.max(LEAST));
        } else {
            omitted.push(Omitted { mime: mime.clone(), bytes: size as u64 });
        }
        fits
    });
    omitted
}

/// A traceback of at most so many bytes: its last line before all, then the two ends of the rest.
pub(super) fn cut_traceback(text: &str, bytes: usize) -> Cow<'_, str> {
    /// As much as the line takes that says what is missing.
    const MARK: usize = 60;
    if text.len() <= bytes {
        return text.into();
    }
    let trimmed = text.trim_end_matches('\n');
    let (above, last) = trimmed.split_at(trimmed.rfind('\n').map_or(0, |end| end + 1));
    let room = bytes.saturating_sub(last.len() + MARK);
    if room < 80 {
        return cut(last, bytes).into();
    }
    let head = cut(above, room / 3);
    let head = &head[..head.rfind('\n').map_or(0, |end| end + 1)];
    let mut begin = above.len() - (room - room / 3);
    while !above.is_char_boundary(begin) {
        begin += 1;
    }
    let tail = &above[begin..];
    let tail = &tail[tail.find('\n').map_or(0, |end| end + 1)..];
    let gone = above.len() - head.len() - tail.len();
    format!("{head}[... {gone} bytes left out ...]\n{tail}{last}").into()
}

impl fmt::Debug for Gatherer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { head, tail, gone, omitted, .. } = self;
        f.debug_struct("Gatherer")
            .field("head", &head.len())
            .field("tail", &tail.len())
            .field("gone", gone)
            .field("omitted", &omitted.len())
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

    fn options(bytes: usize) -> ExecuteOptions {
        ExecuteOptions::new().max_output(bytes)
    }

    fn stdout(text: &str) -> Output {
        Output::Stdout { text: text.into() }
    }

    fn stderr(text: &str) -> Output {
        Output::Stderr { text: text.into() }
    }

    #[test]
    fn text_over_the_limit_is_cut_at_a_character() {
        let mut shown = String::new();
        let mut show = |output: OutputRef<'_>| {
            if let OutputRef::Stdout(text) | OutputRef::Stderr(text) = output {
                shown.push_str(text);
            }
        };
        let mut gatherer = Gatherer::new(&options(7).keep(Keep::Head), &mut show);
        gatherer.text(StdStream::Stdout, "aé");
        gatherer.text(StdStream::Stdout, "b");
        gatherer.text(StdStream::Stderr, "é€");
        gatherer.text(StdStream::Stdout, "z"); // it would fit, and be taken for what came next
        let Gathered { outputs, cut, .. } = gatherer.finish();
        assert_eq!(cut, Some(Cut { at: 2, bytes: 4 }));
        assert_eq!(shown, "aébé");
        assert_eq!(outputs, [stdout("aéb"), stderr("é")]);
    }

    #[test]
    fn of_long_text_both_ends_are_kept_and_all_is_accounted_for() {
        for keep in [Keep::Head, Keep::Tail, Keep::Both] {
            for size in [1, 7, 10, 333] {
                let mut shown = String::new();
                let mut show = |output: OutputRef<'_>| match output {
                    OutputRef::Stdout(text) | OutputRef::Stderr(text) => shown.push_str(text),
                    OutputRef::Display(_) => {}
                };
                let mut gatherer = Gatherer::new(&options(1000).keep(keep), &mut show);
                let whole: String = (0..20_000).map(|n: u32| format!("{n};")).collect();
                for piece in whole.as_bytes().chunks(size) {
                    gatherer.text(StdStream::Stdout, std::str::from_utf8(piece).unwrap());
                }
                let Gathered { outputs, cut, .. } = gatherer.finish();
                let text: String = outputs
                    .iter()
                    .map(|output| match output {
                        Output::Stdout { text } => text.as_str(),
                        other => panic!("{other:?}"),
                    })
                    .collect();
                assert_eq!(text, shown, "{keep:?}");
                assert_eq!(text.len(), 1000, "{keep:?}");
                let cut = cut.unwrap();
                assert_eq!(cut.bytes as usize + text.len(), whole.len());
                let head = if keep == Keep::Head { 1000 } else { 500 };
                if keep != Keep::Tail {
                    assert_eq!(text[..head], whole[..head]);
                }
                if keep != Keep::Head {
                    assert_eq!(text[500..], whole[whole.len() - 500..]);
                }
                assert_eq!(cut.at, usize::from(keep != Keep::Tail));
            }
        }
    }

    #[test]
    fn text_that_just_fits_is_whole() {
        for keep in [Keep::Head, Keep::Tail, Keep::Both] {
            let mut ignore = |_: OutputRef<'_>| {};
            let mut gatherer = Gatherer::new(&options(10).keep(keep), &mut ignore);
            for _ in 0..5 {
                gatherer.text(StdStream::Stdout, "é");
            }
            let Gathered { outputs, cut, .. } = gatherer.finish();
            assert_eq!((outputs, cut), (vec![stdout("ééééé")], None), "{keep:?}");
        }
    }

    #[test]
    fn data_has_its_own_room_and_what_is_left_out_is_named() {
        let mut ignore = |_: OutputRef<'_>| {};
        let limits = options(10).max_data(100).keep(Keep::Head);
        let mut gatherer = Gatherer::new(&limits, &mut ignore);
        let forms = |text: &str, image: usize| {
            let image = ("image/png".to_owned(), Value::from("x".repeat(image)));
            MimeBundle::from([(PLAIN.to_owned(), text.into()), image])
        };
        gatherer.text(StdStream::Stdout, "twelve bytes");
        gatherer.display(forms("no room for this", 90));
        gatherer.display(forms("", 20));
        let Gathered { outputs, cut, omitted } = gatherer.finish();
        let image = forms("", 90).into_iter().filter(|(mime, _)| mime != PLAIN).collect();
        assert_eq!(outputs, [stdout("twelve byt"), Output::Display { data: image }]);
        assert_eq!(cut.unwrap().bytes, 18);
        assert_eq!(omitted, [Omitted { mime: "image/png".into(), bytes: 20 }]);
    }

    #[test]
    fn images_outlast_the_text_that_flows_past_them() {
        let mut ignore = |_: OutputRef<'_>| {};
        let mut gatherer = Gatherer::new(&options(100), &mut ignore);
        let image = MimeBundle::from([("image/png".to_owned(), "iVBO".into())]);
        for _ in 0..3 {
            gatherer.text(StdStream::Stdout, &"y".repeat(20_000));
            gatherer.display(image.clone());
        }
        gatherer.text(StdStream::Stdout, "last");
        let Gathered { outputs, cut, .. } = gatherer.finish();
        let images = outputs.iter().filter(|one| matches!(one, Output::Display { .. })).count();
        assert_eq!((images, cut.unwrap().at), (3, 1));
        assert!(matches!(outputs.last(), Some(Output::Stdout { text }) if text.ends_with("last")));
    }

    #[test]
    fn the_last_line_of_a_traceback_is_always_kept() {
        let frames: String = (0..50).map(|n| format!("  File \"é{n}\", line {n}\n")).collect();
        let whole = format!("Traceback (most recent call last):\n{frames}KeyError: 'k'");
        assert_eq!(cut_traceback(&whole, whole.len()), whole);
        for bytes in [5, 13, 100, 300, 900] {
            let short = cut_traceback(&whole, bytes);
            assert!(short.len() <= bytes, "{} of {bytes}", short.len());
            assert!(short.ends_with(cut("KeyError: 'k'", bytes)), "{short}");
            assert_eq!(short.contains("bytes left out"), bytes >= 300, "{short}");
        }
    }
}
