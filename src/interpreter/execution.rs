use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

mod markdown;

/// One value in several forms, by MIME type.
///
/// Texts are strings; binary data, such as `image/png`, is a string of base64; types that end in
/// `json` are JSON values.
pub type MimeBundle = BTreeMap<String, Value>;

/// What came of one cell.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Execution {
    /// What the cell put out, in order. Neighbours of the same stream are one.
    pub outputs: Vec<Output>,
    /// The value of the last expression, if there was one, it was not `None`, and no semicolon
    /// followed it. Its `text/plain` is its `repr`.
    pub result: Option<MimeBundle>,
    /// The exception that ended the cell, if one did.
    pub error: Option<ErrorInfo>,
    /// How long the cell took, as the caller saw it. Serialized as whole microseconds.
    #[serde(rename = "duration_us", with = "micros")]
    pub duration: Duration,
    /// The how-manieth cell of its session this was, from 1.
    pub execution_count: u64,
    /// The cell was interrupted at its time limit. The state is what it had made of it. The
    /// `error` is `KeyboardInterrupt`, unless the cell made something else of it.
    #[serde(default)]
    pub timed_out: bool,
    /// Something was left out: text because of [`max_output`](super::ExecuteOptions::max_output),
    /// data because of [`max_data`](super::ExecuteOptions::max_data), or anything because a gateway
    /// threw it away, or may have.
    #[serde(default)]
    pub truncated: bool,
    /// Where in the outputs text was left out, and how much.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<Cut>,
    /// The data that was left out, because it was larger than
    /// [`max_data`](super::ExecuteOptions::max_data), or there was no more room for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub omitted: Vec<Omitted>,
    /// What *earlier* cells' threads and child processes wrote since those cells ended. It is no
    /// part of this cell's output, and not of [`stdout`](Self::stdout).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub late: Vec<LateOutput>,
}

/// One piece of output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Output {
    /// Text written to standard output.
    Stdout {
        /// The text; bytes that are not UTF-8 are replaced by U+FFFD.
        text: String,
    },
    /// Text written to standard error.
    Stderr {
        /// The text; bytes that are not UTF-8 are replaced by U+FFFD.
        text: String,
    },
    /// A value shown on the way, as by `display(..)`.
    Display {
        /// The value's forms.
        data: MimeBundle,
    },
}

/// A piece of output on its way, as
/// [`execute_with`](super::Interpreter::execute_with) shows it.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum OutputRef<'a> {
    /// Text written to standard output, as far as it has come.
    Stdout(&'a str),
    /// Text written to standard error, as far as it has come.
    Stderr(&'a str),
    /// A value shown, as by `display(..)`, whole.
    Display(&'a MimeBundle),
}

/// Keeps a piece that was shown, as to send it to another thread.
///
/// ```
/// use sessile::interpreter::{Output, OutputRef};
///
/// let (sender, receiver) = std::sync::mpsc::channel::<Output>();
/// let mut on_output = |piece: OutputRef<'_>| sender.send(piece.into()).expect("it is listened to");
/// on_output(OutputRef::Stdout("as it comes"));
/// assert_eq!(receiver.recv()?, Output::Stdout { text: "as it comes".into() });
/// # Ok::<(), std::sync::mpsc::RecvError>(())
/// ```
impl From<OutputRef<'_>> for Output {
    fn from(piece: OutputRef<'_>) -> Self {
        match piece {
            OutputRef::Stdout(text) => Self::Stdout { text: text.to_owned() },
            OutputRef::Stderr(text) => Self::Stderr { text: text.to_owned() },
            OutputRef::Display(data) => Self::Display { data: data.clone() },
        }
    }
}

impl<'a> From<&'a Output> for OutputRef<'a> {
    fn from(output: &'a Output) -> Self {
        match output {
            Output::Stdout { text } => Self::Stdout(text),
            Output::Stderr { text } => Self::Stderr(text),
            Output::Display { data } => Self::Display(data),
        }
    }
}

/// Text that is missing amid the outputs of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Cut {
    /// Before which of the [`outputs`](Execution::outputs) it is missing; their number, if it is
    /// missing at the end.
    pub at: usize,
    /// How many bytes there were.
    pub bytes: u64,
}

/// Data that was left out of an [`Execution`], whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Omitted {
    /// Its MIME type.
    pub mime: String,
    /// Its size; that of binary data is counted as base64.
    pub bytes: u64,
}

/// Something the session's code has bound at top level.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// The name of its value's class.
    #[serde(rename = "type")]
    pub kind: String,
    /// The beginning of its value's `repr`; of a large list or the like, of its first items. Empty
    /// where there is none to be had.
    pub repr: String,
    /// How many items it has, as Python's `len` counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// Its sizes by dimension, if it has such: an array's or a table's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<Vec<u64>>,
}

/// Which of the two standard streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StdStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Text that came after its cell had ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LateOutput {
    /// The [`execution_count`](Execution::execution_count) of the cell it belongs to.
    pub cell: u64,
    /// Where it was written.
    pub stream: StdStream,
    /// The text.
    pub text: String,
}

/// A Python exception.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ErrorInfo {
    /// The name of its class.
    pub name: String,
    /// Its `str`.
    pub value: String,
    /// The traceback as Python prints it, without frames of the engine, without colours; the last
    /// line names the exception.
    pub traceback: String,
}

impl Variable {
    /// Tells of a variable: its name, the name of its value's class, and the beginning of its `repr`.
    ///
    /// ```
    /// let n = sessile::interpreter::Variable::new("n", "int", "42");
    /// assert_eq!((n.name.as_str(), n.kind.as_str(), n.repr.as_str()), ("n", "int", "42"));
    /// ```
    pub fn new(name: impl Into<String>, kind: impl Into<String>, repr: impl Into<String>) -> Self {
        Self { name: name.into(), kind: kind.into(), repr: repr.into(), length: None, shape: None }
    }
}

impl LateOutput {
    /// Tells of text that a cell wrote after it had ended.
    ///
    /// ```
    /// use sessile::interpreter::{LateOutput, StdStream};
    ///
    /// let late = LateOutput::new(1, StdStream::Stderr, "still here");
    /// assert_eq!((late.cell, late.text.as_str()), (1, "still here"));
    /// ```
    pub fn new(cell: u64, stream: StdStream, text: impl Into<String>) -> Self {
        Self { cell, stream, text: text.into() }
    }
}

impl ErrorInfo {
    /// Tells of an exception: the name of its class, its `str`, and the traceback, if there is one.
    ///
    /// ```
    /// let error = sessile::interpreter::ErrorInfo::new("ValueError", "too small", "");
    /// assert_eq!((error.name.as_str(), error.value.as_str()), ("ValueError", "too small"));
    /// ```
    pub fn new(
        name: impl Into<String>,
        value: impl Into<String>,
        traceback: impl Into<String>,
    ) -> Self {
        Self { name: name.into(), value: value.into(), traceback: traceback.into() }
    }
}

impl Execution {
    /// Whether no exception ended the cell.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.error.is_none()
    }

    /// All that went to standard output.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.outputs
            .iter()
            .filter_map(|output| match output {
                Output::Stdout { text } => Some(text.as_str()),
                _ => None,
            })
            .collect()
    }

    /// All that went to standard error.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.outputs
            .iter()
            .filter_map(|output| match output {
                Output::Stderr { text } => Some(text.as_str()),
                _ => None,
            })
            .collect()
    }

    /// The value of the last expression as text, as Python's `repr` has it.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        self.result.as_ref().and_then(plain)
    }
}

fn plain(data: &MimeBundle) -> Option<&str> {
    data.get("text/plain").and_then(Value::as_str)
}

mod micros {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(d: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u64(u64::try_from(d.as_micros()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        u64::deserialize(d).map(Duration::from_micros)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Execution {
        Execution {
            outputs: vec![
                Output::Stdout { text: "a\n```\n".into() },
                Output::Stderr { text: "careful".into() },
                Output::Stdout { text: "b\n".into() },
            ],
            result: Some(MimeBundle::from([("text/plain".into(), "42".into())])),
            error: None,
            duration: Duration::from_micros(1500),
            execution_count: 3,
            timed_out: true,
            truncated: true,
            cut: None,
            omitted: Vec::new(),
            late: vec![LateOutput { cell: 2, stream: StdStream::Stdout, text: "tardy".into() }],
        }
    }

    #[test]
    fn comes_back_from_json_as_it_was() {
        let json = serde_json::to_value(sample()).unwrap();
        assert_eq!(json["duration_us"], 1500);
        assert_eq!(json["outputs"][1]["type"], "stderr");
        assert_eq!(serde_json::from_value::<Execution>(json).unwrap(), sample());
    }

    #[test]
    fn backticks_in_the_output_do_not_end_its_block() {
        let md = sample().to_markdown();
        assert!(md.starts_with("stdout:\n````text\na\n```\n````\nstderr:\n```text\n"), "{md}");
        assert!(md.contains("late stdout of cell 2:"), "{md}");
        assert!(md.ends_with("variables are kept]\n"), "{md}");
    }

    #[test]
    fn images_are_named_and_not_shown() {
        let image = ("image/png".to_owned(), Value::from("iVBORw0K"));
        let data = MimeBundle::from([("text/plain".to_owned(), "<Figure>".into()), image]);
        let outputs = vec![Output::Display { data }];
        let md = Execution { outputs, ..Execution::default() }.to_markdown();
        let expected = "display:\n```text\n<Figure>\n```\n[image/png, 8 bytes as base64]\n";
        assert_eq!(md, expected);
    }

    #[test]
    fn streams_are_told_apart() {
        let sample = sample();
        assert_eq!(sample.stdout(), "a\n```\nb\n");
        assert_eq!(sample.stderr(), "careful");
        assert_eq!(sample.text(), Some("42"));
        assert_eq!(Execution::default().to_markdown(), "[no output]\n");
    }
}
