//! What belongs to one cell, out of all that a kernel says.

use std::mem;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

use super::wire::{Incoming, Malformed};
use crate::interpreter::text::{Gathered, Gatherer, cut, cut_traceback, fit};
use crate::interpreter::{
    ErrorInfo, ExecuteOptions, Execution, LateOutput, MimeBundle, Output, OutputRef, StdStream,
};

/// How a gateway says that it throws output away, since it is too much.
const CUT_BY_SERVER: [&str; 2] = ["IOPub data rate exceeded", "IOPub message rate exceeded"];

/// The class of no exception. When a value could not be shown, IPython says that the next cell that
/// awaits something failed as well, with this for a name, although all went well.
const NO_EXCEPTION: &str = "NoneType";

/// Gathers what comes of a cell, in whatever order.
///
/// A cell is done when its reply *and* its `idle` are there: they come on two channels, and either may
/// be first. Who waits for the reply alone loses output; who waits for `idle` alone leaves a reply
/// lying about for the next cell.
pub(crate) struct Cell<'a> {
    gatherer: Gatherer<'a>,
    begun: Instant,
    max_output: usize,
    max_data: usize,
    result: Option<MimeBundle>,
    error: Option<ErrorInfo>,
    /// Where the error was told among the outputs: it may be one of those.
    told_at: Vec<(usize, String)>,
    truncated: bool,
    cut_by_server: bool,
    /// As the kernel told before it ran the code.
    count: Option<u64>,
    reply: Option<Reply>,
    idle: bool,
    /// The kernel has said something of it.
    has_begun: bool,
}

/// How the kernel says that the request ended.
#[derive(Deserialize)]
struct Reply {
    status: String,
    execution_count: Option<u64>,
    #[serde(flatten)]
    error: Raised,
    #[serde(default)]
    payload: Vec<Value>,
    #[serde(default)]
    user_expressions: Value,
}

#[derive(Deserialize)]
struct Raised {
    ename: Option<String>,
    evalue: Option<String>,
    #[serde(default)]
    traceback: Vec<String>,
}

#[derive(Deserialize)]
struct Text {
    name: String,
    text: String,
}

#[derive(Deserialize)]
struct Input {
    execution_count: Option<u64>,
}

#[derive(Deserialize)]
struct Shown {
    data: MimeBundle,
}

#[derive(Deserialize)]
struct Status {
    execution_state: String,
}

fn read<'a, T: Deserialize<'a>>(message: &Incoming<'a>) -> Result<T, Malformed> {
    let odd = |_| Malformed("a message whose content is not of its type");
    serde_json::from_str(message.content.get()).map_err(odd)
}

/// What a kernel, or the gateway about it, says that it does.
pub(super) fn state(message: &Incoming<'_>) -> Result<String, Malformed> {
    read(message).map(|Status { execution_state }| execution_state)
}

/// Whether a reply says that all went well. One that says nothing does.
pub(super) fn is_ok(message: &Incoming<'_>) -> Result<bool, Malformed> {
    #[derive(Deserialize)]
    struct Outcome {
        #[serde(default)]
        status: String,
    }
    read(message).map(|Outcome { status }| status != "error")
}

impl<'a> Cell<'a> {
    pub(crate) fn new(
        options: &ExecuteOptions,
        on_output: &'a mut dyn FnMut(OutputRef<'_>),
    ) -> Self {
        Self {
            gatherer: Gatherer::new(options, on_output),
            begun: Instant::now(),
            max_output: options.max_output,
            max_data: options.max_data,
            result: None,
            error: None,
            told_at: Vec::new(),
            truncated: false,
            cut_by_server: false,
            count: None,
            reply: None,
            idle: false,
            has_begun: false,
        }
    }

    /// Takes a message that has the cell's request for its parent. `by_gateway`: not the kernel's.
    pub(crate) fn take(
        &mut self,
        message: &Incoming<'_>,
        by_gateway: bool,
    ) -> Result<(), Malformed> {
        self.has_begun |= !by_gateway;
        match (&*message.channel, &*message.header.kind) {
            ("shell", "execute_reply") => self.reply = Some(read(message)?),
            ("iopub", "status") => self.idle |= state(message)? == "idle",
            ("iopub", "stream") => {
                let Text { name, text } = read(message)?;
                if by_gateway && CUT_BY_SERVER.iter().any(|words| text.starts_with(words)) {
                    self.cut_by_server = true;
                } else {
                    self.gatherer.text(stream(&name), &text);
                }
            }
            ("iopub", "display_data" | "update_display_data") => {
                let Shown { data } = read(message)?;
                self.gatherer.display(data);
            }
            ("iopub", "execute_result") => {
                let Shown { data } = read(message)?;
                self.result = Some(self.bounded(data));
            }
            ("iopub", "execute_input") => {
                let Input { execution_count } = read(message)?;
                self.count = execution_count;
            }
            ("iopub", "error") => {
                let error = self.describe(read(message)?);
                self.told_at.push((self.gatherer.place(), error.traceback.clone()));
                self.error = Some(error);
            }
            _ => {} // what kernels tell that has no place here, or that is newer than this
        }
        Ok(())
    }

    /// The connection was lost amid it, perhaps with something that was on its way.
    pub(super) fn may_lack_some(&mut self) {
        self.truncated = true;
    }

    pub(super) fn is_done(&self) -> bool {
        self.idle && self.reply.is_some()
    }

    /// Whether the kernel is known to have come to it.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// An interrupt has cost it its reply.
    pub(super) fn was_interrupted(&mut self) {
        let name = "KeyboardInterrupt".to_owned();
        let error = ErrorInfo { traceback: name.clone(), name, value: String::new() };
        self.error.get_or_insert(error);
    }

    /// Whether it threw away what may have been the value: the reply does not hold that.
    pub(super) fn lacks_value(&self) -> bool {
        let ok = self.reply.as_ref().is_some_and(|reply| reply.status == "ok");
        self.cut_by_server && ok && self.result.is_none() && self.error.is_none()
    }

    /// The number that the kernel gave to the cell.
    pub(super) fn count(&self) -> Option<u64> {
        self.reply.as_ref().and_then(|reply| reply.execution_count).or(self.count)
    }

    /// Whether the kernel ends, because the cell said so: `exit()`.
    pub(super) fn ends_kernel(&self) -> bool {
        let Some(reply) = &self.reply else { return false };
        let asks = |payload: &Value| {
            payload["source"] == "ask_exit" && payload["keepkernel"] != Value::Bool(true)
        };
        reply.payload.iter().any(asks)
    }

    /// What a user expression came to.
    pub(super) fn expression(&mut self, name: &str) -> Option<MimeBundle> {
        let told = self.reply.as_mut()?.user_expressions.get_mut(name)?;
        if told["status"] != "ok" {
            return None;
        }
        serde_json::from_value(told["data"].take()).ok()
    }

    pub(super) fn set_value(&mut self, data: MimeBundle) {
        self.result = Some(self.bounded(data));
    }

    pub(crate) fn finish(mut self, timed_out: bool, late: Late) -> Execution {
        let execution_count = self.count().unwrap_or(0);
        let mut reply = self.reply.take();
        // What a pager would show, as for `len?`.
        for page in reply.iter_mut().flat_map(|reply| &mut reply.payload) {
            if page["source"] == "page"
                && let Ok(data) = serde_json::from_value::<MimeBundle>(page["data"].take())
            {
                self.gatherer.display(data);
            }
        }
        // A form of a value that could not be had, for example, while all else went well.
        if reply.as_ref().is_some_and(|reply| reply.status == "ok") && self.error.take().is_some() {
            for (place, traceback) in mem::take(&mut self.told_at).into_iter().rev() {
                self.gatherer.insert(place, &(traceback + "\n"));
            }
        }
        // Some errors are in the reply only; where both tell of one, the reply may have it wrong.
        if self.error.is_none()
            && let Some(Reply { status, error, .. }) = reply
            && status != "ok"
            && error.ename.as_deref() != Some(NO_EXCEPTION)
        {
            let aborted = || Some("Aborted".to_owned());
            let error = Raised { ename: error.ename.or_else(aborted), ..error };
            self.error = Some(self.describe(error));
        }
        let Gathered { outputs, cut, mut omitted } = self.gatherer.finish();
        if let Some(data) = &mut self.result {
            let mut room = self.max_data;
            omitted.extend(fit(data, &mut room));
        }
        let truncated = cut.is_some() || !omitted.is_empty();
        let micros = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        Execution {
            outputs,
            result: self.result,
            error: self.error,
            duration: Duration::from_micros(micros), // what a round trip through JSON keeps
            execution_count,
            timed_out,
            truncated: truncated || self.truncated || self.cut_by_server || late.truncated,
            cut,
            omitted,
            late: late.outputs,
        }
    }

    /// What it had put out, if it comes to no good end.
    pub(super) fn into_outputs(self) -> Vec<Output> {
        self.gatherer.finish().outputs
    }

    /// The text is cut; what other forms there is room for is seen in the end.
    fn bounded(&mut self, mut data: MimeBundle) -> MimeBundle {
        if let Some(Value::String(text)) = data.get_mut("text/plain") {
            let kept = cut(text, self.max_output).len();
            self.truncated |= kept < text.len();
            text.truncate(kept);
        }
        data
    }

    fn describe(&mut self, raised: Raised) -> ErrorInfo {
        let Raised { ename, evalue, traceback } = raised;
        let (name, value) = (ename.unwrap_or_default(), evalue.unwrap_or_default());
        let mut traceback = without_colours(&traceback.join("\n"));
        if traceback.is_empty() {
            traceback = if value.is_empty() { name.clone() } else { format!("{name}: {value}") };
        }
        let short = cut(&value, self.max_output).to_owned();
        let shown = cut_traceback(&traceback, self.max_output).into_owned();
        self.truncated |= short.len() < value.len() || shown.len() < traceback.len();
        ErrorInfo { name, value: short, traceback: shown }
    }
}

fn stream(name: &str) -> StdStream {
    if name == "stderr" { StdStream::Stderr } else { StdStream::Stdout }
}

/// What came of earlier cells since they ended.
pub(crate) struct Late {
    outputs: Vec<LateOutput>,
    room: usize,
    truncated: bool,
}

impl Late {
    pub(crate) fn new(max_output: usize) -> Self {
        Self { outputs: Vec::new(), room: max_output, truncated: false }
    }

    /// Takes what came of a cell that was given up before.
    pub(super) fn take_outputs(&mut self, cell: u64, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Stdout { text } => self.put(cell, StdStream::Stdout, &text),
                Output::Stderr { text } => self.put(cell, StdStream::Stderr, &text),
                _ => self.truncated = true, // there is no place for a display here
            }
        }
    }

    /// Something is missing, for a connection was lost.
    pub(super) fn may_lack_some(&mut self) {
        self.truncated = true;
    }

    /// Takes a message that belongs to the cell with this number.
    pub(crate) fn take(&mut self, cell: u64, message: &Incoming<'_>) -> Result<(), Malformed> {
        if message.channel != "iopub" || message.header.kind != "stream" {
            return Ok(());
        }
        let Text { name, text } = read(message)?;
        self.put(cell, stream(&name), &text);
        Ok(())
    }

    fn put(&mut self, cell: u64, stream: StdStream, text: &str) {
        let kept = cut(text, self.room);
        self.truncated |= kept.len() < text.len();
        self.room -= kept.len();
        match self.outputs.last_mut() {
            Some(last) if last.cell == cell && last.stream == stream => last.text.push_str(kept),
            _ if kept.is_empty() => {}
            _ => self.outputs.push(LateOutput { cell, stream, text: kept.to_owned() }),
        }
    }
}

/// The text without the sequences by which terminals are told of colours and the like.
fn without_colours(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, sequence)) = rest.split_once("\x1b[") {
        plain.push_str(before);
        // Parameters, then one letter or the like, which ends it.
        let end = sequence.find(|c: char| ('@'..='~').contains(&c));
        rest = end.map_or("", |end| &sequence[end + 1..]);
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::without_colours;

    #[test]
    fn colours_are_taken_out_and_nothing_else() {
        let text = "\x1b[31mZero\x1b[39m \x1b[38;5;28;01mé\x1b[0m [31m \x1b";
        assert_eq!(without_colours(text), "Zero é [31m \x1b");
        assert_eq!(without_colours("cut \x1b[3"), "cut ");
    }
}
