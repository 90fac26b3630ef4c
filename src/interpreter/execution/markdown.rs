//! An [`Execution`] for a model to read: everything it needs, in few tokens.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde_json::Value;

use self::table::as_table;
use super::{Cut, Execution, LateOutput, MimeBundle, Omitted, Output, StdStream, plain};

mod screen;
mod table;

/// How many bytes of a value's source are shown where its text says nothing.
const SOURCE: usize = 2_000;

impl Execution {
    /// The whole outcome as Markdown, for a model or a person to read.
    ///
    /// Each output is a fenced block, in order; then the value, then the traceback; then, in
    /// brackets, what the reader should know: that the time was up, that data was left out. Where
    /// text was left out, a line says how much. A small table, as pandas' are, is a table. Images
    /// are named by type and size, not shown. Text is as a terminal would show it in the end: a
    /// progress bar is its last state, without colours. A cell that put out nothing says so.
    ///
    /// ```
    /// use sessile::interpreter::{Execution, Output};
    ///
    /// let mut execution = Execution::default();
    /// execution.outputs = vec![Output::Stdout { text: " 10%\r100%\n".into() }];
    /// assert_eq!(execution.to_markdown(), "stdout:\n```text\n100%\n```\n");
    /// ```
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
            cut,
            omitted,
            late,
        } = self; // a new field stops the build here
        let mut md = String::new();
        for (at, output) in outputs.iter().enumerate() {
            gap(&mut md, *cut, at);
            match output {
                Output::Stdout { text } => fence(&mut md, "stdout", "text", &screen::shown(text)),
                Output::Stderr { text } => fence(&mut md, "stderr", "text", &screen::shown(text)),
                Output::Display { data } => bundle(&mut md, "display", data),
            }
        }
        gap(&mut md, *cut, outputs.len());
        if let Some(data) = result {
            bundle(&mut md, "result", data);
        }
        if let Some(error) = error {
            let traceback = screen::shown(&error.traceback);
            // What a traceback is told by elsewhere need not end in what has happened.
            if error.name.is_empty() || traceback.contains(&error.name) {
                fence(&mut md, "error", "text", &traceback);
            } else {
                let whole = format!("{traceback}\n{}: {}", error.name, error.value);
                fence(&mut md, "error", "text", &whole);
            }
        }
        for LateOutput { cell, stream, text, .. } in late {
            let stream = match stream {
                StdStream::Stdout => "stdout",
                StdStream::Stderr => "stderr",
            };
            fence(&mut md, &format!("late {stream} of cell {cell}"), "text", &screen::shown(text));
        }
        if md.is_empty() {
            md.push_str("[no output]\n");
        }
        for Omitted { mime, bytes } in omitted {
            let _ =
                writeln!(md, "[left out: {mime}, {} bytes, more than allowed]", grouped(*bytes));
        }
        if *truncated && cut.is_none() && omitted.is_empty() {
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

/// The line that says that text is missing here.
fn gap(md: &mut String, cut: Option<Cut>, at: usize) {
    if let Some(cut) = cut
        && cut.at == at
    {
        let _ = writeln!(md, "[... {} bytes left out ...]", grouped(cut.bytes));
    }
}

/// A number as people read it: 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn bundle(md: &mut String, label: &str, data: &MimeBundle) {
    let text = plain(data).unwrap_or_default();
    let form = |mime: &str| data.get(mime).and_then(Value::as_str);
    if let Some(table) = form("text/html").and_then(as_table) {
        let _ = writeln!(md, "{label}:\n\n{table}");
    } else if let Some((language, source)) = source(data, text) {
        fence(md, label, language, &source);
    } else if !text.is_empty() {
        fence(md, label, "text", &screen::shown(text));
    } else {
        let types = data.keys().map(String::as_str).filter(|mime| !is_named(mime));
        let types = types.collect::<Vec<_>>().join(", ");
        if !types.is_empty() {
            fence(md, label, "text", &types);
        }
    }
    for (mime, value) in data.iter().filter(|(mime, _)| is_named(mime)) {
        let (size, how) = match value.as_str() {
            Some(text) if mime.ends_with("xml") => (text.len(), ""),
            Some(base64) => (base64.len(), " as base64"),
            None => (value.to_string().len(), ""),
        };
        let _ = writeln!(md, "[{mime}, {} bytes{how}]", grouped(size as u64));
    }
}

/// Whether a form is for eyes: named, not shown.
fn is_named(mime: &str) -> bool {
    mime.starts_with("image/") || mime.starts_with("application/vnd.") || mime == "application/pdf"
}

/// A small source to be shown in the place of a text such as `<IPython.core.display.HTML object>`.
fn source<'a>(data: &'a MimeBundle, text: &str) -> Option<(&'static str, Cow<'a, str>)> {
    if !(text.is_empty() || text.starts_with('<') && text.ends_with('>') && !text.contains('\n')) {
        return None;
    }
    let forms = [
        ("text/markdown", "markdown"),
        ("text/latex", "latex"),
        ("application/json", "json"),
        ("text/html", "html"),
    ];
    forms.into_iter().find_map(|(mime, language)| {
        let source = match data.get(mime)? {
            Value::String(text) => Cow::Borrowed(text.trim_end()),
            json => Cow::Owned(json.to_string()),
        };
        (source.len() <= SOURCE).then_some((language, source))
    })
}

/// A fenced block whose fence is longer than any run of backticks within.
fn fence(md: &mut String, label: &str, language: &str, text: &str) {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    let newline = if text.ends_with('\n') { "" } else { "\n" };
    let _ = writeln!(md, "{label}:\n{fence}{language}\n{text}{newline}{fence}");
}
