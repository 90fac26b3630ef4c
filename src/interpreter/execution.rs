use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

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
    /// Something was left out because of [`max_output`](super::ExecuteOptions::max_output); or because
    /// a gateway threw it away, or may have.
    #[serde(default)]
    pub truncated: bool,
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

/// Something the session's code has bound at top level.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// The name of its value's class.
    #[serde(rename = "type")]
    pub kind: String,
    /// The beginning of its value's `repr`; empty where there is none to be had.
    pub repr: String,
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
        Self { name: name.into(), kind: kind.into(), repr: repr.into() }
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

    /// The whole outcome as Markdown, for a model or a person to read.
    ///
    /// Each output is a fenced block, in order; then the value, then the traceback; then, in
    /// brackets, what the reader should know: that output was cut, that the time was up. Images are
    /// named by type and size, not shown. A cell that put out nothing says so.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let Self {
            outputs,
            result,
            error,
            duration,
            execution_count: _,
            timed_out,
            truncated,
            late,
        } = self; // a new field stops the build here
        let mut md = String::new();
        for output in outputs {
            match output {
                Output::Stdout { text } => fence(&mut md, "stdout", text),
                Output::Stderr { text } => fence(&mut md, "stderr", text),
                Output::Display { data } => bundle(&mut md, "display", data),
            }
        }
        if let Some(data) = result {
            bundle(&mut md, "result", data);
        }
        if let Some(error) = error {
            fence(&mut md, "error", &error.traceback);
        }
        for LateOutput { cell, stream, text } in late {
            let stream = match stream {
                StdStream::Stdout => "stdout",
                StdStream::Stderr => "stderr",
            };
            fence(&mut md, &format!("late {stream} of cell {cell}"), text);
        }
        if md.is_empty() {
            md.push_str("[no output]\n");
        }
        if *truncated {
            md.push_str("[output cut: it was longer than allowed]\n");
        }
        if *timed_out {
            let _ = writeln!(
                md,
                "[stopped after {:.1} s, at the time limit; variables are kept]",
                duration.as_secs_f64()
            );
        }
        md
    }
}

fn plain(data: &MimeBundle) -> Option<&str> {
    data.get("text/plain").and_then(Value::as_str)
}

fn bundle(md: &mut String, label: &str, data: &MimeBundle) {
    let text = match plain(data) {
        Some(text) => Cow::Borrowed(text),
        None => Cow::Owned(data.keys().map(String::as_str).collect::<Vec<_>>().join(", ")),
    };
    fence(md, label, &text);
    for (mime, value) in data {
        if mime.starts_with("image/")
            && let Some(base64) = value.as_str()
        {
            let _ = writeln!(md, "[{mime}, {} bytes as base64]", base64.len());
        }
    }
}

/// A fenced block whose fence is longer than any run of backticks within.
fn fence(md: &mut String, label: &str, text: &str) {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    let newline = if text.ends_with('\n') { "" } else { "\n" };
    let _ = writeln!(md, "{label}:\n{fence}text\n{text}{newline}{fence}");
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
