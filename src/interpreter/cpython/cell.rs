//! What comes of one cell: gathered from the channel and the pipes, until the driver's reply.

use std::io::PipeReader;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::super::text::{Decoder, Gathered, Gatherer, cut, fit};
use super::super::{
    ErrorInfo, ExecuteOptions, Execution, LateOutput, MimeBundle, Omitted, OutputRef, StdStream,
};
use super::fault::Fault;

/// One of the pipes that are, or were, the child's standard streams.
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) reader: PipeReader,
    pub(super) stream: StdStream,
    /// The last cell that had it as its own.
    pub(super) cell: u64,
    pub(super) decoder: Decoder,
}

impl Pipe {
    pub(super) fn new(reader: PipeReader, stream: StdStream, cell: u64) -> Self {
        Self { reader, stream, cell, decoder: Decoder::default() }
    }
}

/// What the driver says when a cell has ended.
#[derive(Deserialize)]
pub(super) struct Reply {
    result: Option<MimeBundle>,
    error: Option<ErrorInfo>,
    cut: bool,
    omitted: Vec<(String, u64)>,
    late: Vec<(u64, char, String)>,
    pub(super) tainted: bool,
}

/// What the driver says of a value that was displayed.
#[derive(Deserialize)]
struct Displayed {
    data: MimeBundle,
    cut: bool,
    omitted: Vec<(String, u64)>,
}

fn omitted(told: Vec<(String, u64)>) -> impl Iterator<Item = Omitted> {
    told.into_iter().map(|(mime, bytes)| Omitted { mime, bytes })
}

impl Reply {
    /// Of a frame of kind `r` or `s`.
    pub(super) fn parse(kind: u8, payload: &[u8]) -> Result<Self, Fault> {
        const NONE: Fault = Fault::Protocol("a reply that is none");
        if kind == b'r' {
            return serde_json::from_slice(payload).map_err(|_| NONE);
        }
        let (b's', Some((&flags, text))) = (kind, payload.split_first()) else {
            return Err(NONE);
        };
        let [tainted, cut, value] = [1, 2, 4].map(|flag| flags & flag != 0);
        let result = value.then(|| {
            let text = String::from_utf8_lossy(text).into_owned();
            MimeBundle::from([("text/plain".to_owned(), text.into())])
        });
        let (error, omitted, late) = (None, Vec::new(), Vec::new());
        Ok(Self { result, error, cut, omitted, late, tainted })
    }
}

/// What has come of the running cell so far.
pub(super) struct Cell<'a> {
    pub(super) number: u64,
    gatherer: Gatherer<'a>,
    pub(super) late: Vec<LateOutput>,
    late_room: usize,
    max_data: usize,
    /// Something that was displayed was cut by the driver.
    is_cut: bool,
    /// For text in frames, which may end amid a character when a cell writes bytes.
    decoders: [Decoder; 2],
    pub(super) largest_frame: usize,
    /// What a frame may take in memory when it has been read.
    pub(super) largest_weight: usize,
}

impl<'a> Cell<'a> {
    pub(super) fn new(
        number: u64,
        options: &ExecuteOptions,
        on_output: &'a mut dyn FnMut(OutputRef<'_>),
    ) -> Self {
        let ExecuteOptions { max_output, max_data, .. } = *options;
        // What the driver puts into one: forms of a value, measured as they are sent; and texts (a
        // result, an error and its traceback), of which a byte may take six in JSON. A cell that writes
        // frames of its own has us hold no more than that.
        let largest = max_output.saturating_mul(24).saturating_add(max_data);
        Self {
            number,
            gatherer: Gatherer::new(options, on_output),
            late: Vec::new(),
            late_room: max_output,
            max_data,
            is_cut: false,
            decoders: Default::default(),
            largest_frame: largest.saturating_add(1 << 20),
            largest_weight: max_data.saturating_mul(8).saturating_add(largest).max(64 << 20),
        }
    }

    pub(super) fn frame(&mut self, stream: StdStream, payload: &[u8]) {
        let text = self.decoders[stream as usize].decode(payload);
        self.gatherer.text(stream, &text);
    }

    pub(super) fn display(&mut self, payload: &[u8]) -> Result<(), Fault> {
        let Displayed { data, cut, omitted: left_out } = serde_json::from_slice(payload)
            .map_err(|_| Fault::Protocol("a display that is none"))?;
        self.is_cut |= cut;
        self.gatherer.omit(omitted(left_out));
        self.gatherer.display(data);
        Ok(())
    }

    pub(super) fn pipe(&mut self, pipe: &Pipe, text: &str) {
        if pipe.cell == self.number {
            self.gatherer.text(pipe.stream, text);
        } else {
            self.late(pipe.cell, pipe.stream, text);
        }
    }

    /// Notes what an earlier cell's writers wrote; whether some of it had to be left out.
    pub(super) fn late(&mut self, cell: u64, stream: StdStream, text: &str) {
        let kept = cut(text, self.late_room);
        self.late_room -= kept.len();
        match self.late.last_mut() {
            _ if kept.is_empty() => {}
            Some(last) if last.cell == cell && last.stream == stream => last.text.push_str(kept),
            _ => self.late.push(LateOutput { cell, stream, text: kept.into() }),
        }
        self.is_cut |= kept.len() < text.len();
    }

    /// Ends characters that were begun and not ended.
    pub(super) fn finish_text(&mut self, pipes: &mut [Pipe; 2]) {
        for stream in [StdStream::Stdout, StdStream::Stderr] {
            let text = self.decoders[stream as usize].finish();
            self.gatherer.text(stream, &text);
            let text = pipes[stream as usize].decoder.finish();
            self.gatherer.text(stream, &text);
        }
    }

    /// What it had put out, if it comes to no good end.
    pub(super) fn into_gathered(self) -> Gathered {
        self.gatherer.finish()
    }

    pub(super) fn conclude(mut self, reply: Reply, start: Instant, timed_out: bool) -> Execution {
        let Reply { mut result, error, cut: reply_cut, omitted: told, late, tainted: _ } = reply;
        for (number, kind, text) in late {
            let stream = if kind == 'e' { StdStream::Stderr } else { StdStream::Stdout };
            self.late(number, stream, &text);
        }
        let Gathered { outputs, cut, omitted: mut left_out } = self.gatherer.finish();
        left_out.extend(omitted(told));
        if let Some(data) = &mut result {
            let mut room = self.max_data;
            left_out.extend(fit(data, &mut room));
        }
        let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        Execution {
            outputs,
            timed_out,
            result,
            error,
            duration: Duration::from_micros(micros), // what a round trip through JSON keeps
            execution_count: self.number,
            truncated: reply_cut || self.is_cut || cut.is_some() || !left_out.is_empty(),
            cut,
            omitted: left_out,
            late: self.late,
        }
    }
}
