//! Notebooks: the format of Jupyter, version 4, read and written; and Python with `# %%` between cells.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Map, Value, json};
use sessile::interpreter::{ErrorInfo, Execution, MimeBundle, Output};

use crate::engine::Engine;

/// A notebook, with everything in it that is none of ours.
pub(super) struct Notebook(Map<String, Value>);

/// A cell to run.
pub(super) struct Code {
    /// The how-manieth of the notebook's cells it is, from 0.
    pub(super) at: usize,
    pub(super) source: String,
    /// The author says that it raises: the cells after it are run all the same.
    pub(super) may_raise: bool,
}

impl Notebook {
    pub(super) fn from_json(text: &str) -> Result<Self> {
        let notebook: Map<String, Value> =
            serde_json::from_str(text).context("this is no notebook")?;
        let version = notebook.get("nbformat").and_then(Value::as_u64);
        match version {
            Some(4) => {}
            Some(other) => bail!(
                "the notebook is of format {other}, and only 4 can be run: `jupyter nbconvert --to \
                 notebook --nbformat 4` turns it into one"
            ),
            None => bail!("this is no notebook: it has no `nbformat`"),
        }
        ensure!(
            notebook.get("cells").is_some_and(Value::is_array),
            "this is no notebook: it has no list of `cells`"
        );
        Ok(Self(notebook))
    }

    /// Cells as editors know them: each begins at a line `# %%`; `# %% [markdown]` is text. What stands
    /// before the first is a cell too.
    pub(super) fn from_python(text: &str) -> Self {
        let mut parts = vec![(false, Vec::new())];
        for line in text.lines() {
            match line.strip_prefix("# %%").or_else(|| line.strip_prefix("#%%")) {
                Some(title) => parts.push((title.contains("[markdown]"), Vec::new())),
                None => parts.last_mut().expect("there is one from the start").1.push(line),
            }
        }
        let cells = parts.into_iter().filter_map(|(is_text, lines)| {
            let uncommented = |line: &str| match line.strip_prefix('#') {
                Some(rest) => rest.strip_prefix(' ').unwrap_or(rest).to_owned(),
                None => line.to_owned(),
            };
            let lines = lines.into_iter();
            let source = match is_text {
                true => lines.map(uncommented).collect::<Vec<_>>().join("\n"),
                false => lines.collect::<Vec<_>>().join("\n"),
            };
            let source = source.trim_matches('\n');
            (!source.trim().is_empty()).then(|| (is_text, lines_of(source)))
        });
        let cells = cells.enumerate().map(|(at, (is_text, source))| {
            let id = format!("cell-{at}");
            if is_text {
                json!({ "cell_type": "markdown", "id": id, "metadata": {}, "source": source })
            } else {
                json!({
                    "cell_type": "code", "id": id, "metadata": {}, "source": source,
                    "execution_count": null, "outputs": [],
                })
            }
        });
        let kernel = json!({ "name": "python3", "display_name": "Python 3", "language": "python" });
        let notebook = [
            ("cells", cells.collect()),
            ("metadata", json!({ "kernelspec": kernel })),
            ("nbformat", 4.into()),
            ("nbformat_minor", 5.into()),
        ];
        Self(notebook.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    /// Refuses a notebook in a language that the engine does not speak.
    pub(super) fn check_language(&self, engine: Engine) -> Result<()> {
        let metadata = &self.0.get("metadata").unwrap_or(&Value::Null);
        let named = [&metadata["language_info"]["name"], &metadata["kernelspec"]["language"]];
        match named.into_iter().find_map(Value::as_str) {
            Some(other) if engine != Engine::Jupyter && !other.eq_ignore_ascii_case("python") => {
                bail!(
                    "the notebook is in {other}, and {} runs Python; `--engine jupyter --kernel NAME` \
                 runs what the gateway has",
                    engine.name()
                )
            }
            _ => Ok(()),
        }
    }

    /// The cells to run, in order; empty ones are none.
    pub(super) fn code(&self) -> Vec<Code> {
        let cells = self.0.get("cells").and_then(Value::as_array).into_iter().flatten();
        let code = cells.enumerate().filter(|(_, cell)| cell["cell_type"] == "code");
        let code = code.map(|(at, cell)| Code {
            at,
            source: text_of(&cell["source"]),
            may_raise: cell["metadata"]["tags"]
                .as_array()
                .is_some_and(|tags| tags.iter().any(|tag| tag == "raises-exception")),
        });
        code.filter(|code| !code.source.trim().is_empty()).collect()
    }

    /// Forgets what earlier runs have put out.
    pub(super) fn clear(&mut self) {
        let cells = self.0.get_mut("cells").and_then(Value::as_array_mut).into_iter().flatten();
        for cell in cells.filter(|cell| cell["cell_type"] == "code") {
            cell["outputs"] = json!([]);
            cell["execution_count"] = Value::Null;
        }
    }

    /// Notes what came of a cell.
    pub(super) fn put(&mut self, at: usize, execution: &Execution) {
        let cells = self.0.get_mut("cells").and_then(Value::as_array_mut);
        let Some(cell) = cells.and_then(|cells| cells.get_mut(at)) else { return };
        let count = execution.execution_count;
        let mut outputs: Vec<Value> = execution.outputs.iter().filter_map(output).collect();
        if let Some(data) = &execution.result {
            outputs.push(json!({
                "output_type": "execute_result", "execution_count": count, "metadata": {},
                "data": bundle(data),
            }));
        }
        if let Some(ErrorInfo { name, value, traceback, .. }) = &execution.error {
            let traceback: Vec<_> = traceback.lines().collect();
            outputs.push(json!({
                "output_type": "error", "ename": name, "evalue": value, "traceback": traceback,
            }));
        }
        cell["execution_count"] = count.into();
        cell["outputs"] = outputs.into();
    }

    /// Writes it, as Jupyter writes notebooks: in the place of the file, or not at all.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let mut text = Vec::new();
        let form = serde_json::ser::PrettyFormatter::with_indent(b" ");
        let mut serializer = serde_json::Serializer::with_formatter(&mut text, form);
        serde::Serialize::serialize(&self.0, &mut serializer)?;
        text.push(b'\n');
        let name = path.file_name().context("--output needs the name of a file")?;
        let half =
            path.with_file_name(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
        let written = fs::write(&half, text).and_then(|()| fs::rename(&half, path));
        written
            .inspect_err(|_| drop(fs::remove_file(&half)))
            .with_context(|| path.display().to_string())
    }
}

fn output(output: &Output) -> Option<Value> {
    let stream = |name: &str, text: &str| {
        Some(json!({ "output_type": "stream", "name": name, "text": lines_of(text) }))
    };
    match output {
        Output::Stdout { text } => stream("stdout", text),
        Output::Stderr { text } => stream("stderr", text),
        Output::Display { data } => Some(json!({
            "output_type": "display_data", "metadata": {}, "data": bundle(data),
        })),
        _ => None,
    }
}

/// Texts by line, as Jupyter has them; images and JSON as they are.
fn bundle(data: &MimeBundle) -> Value {
    let form = |(mime, value): (&String, &Value)| {
        let value = match value {
            Value::String(text) if mime.starts_with("text/") || mime == "image/svg+xml" => {
                lines_of(text)
            }
            other => other.clone(),
        };
        (mime.clone(), value)
    };
    data.iter().map(form).collect::<Map<_, _>>().into()
}

fn lines_of(text: &str) -> Value {
    text.split_inclusive('\n').collect::<Vec<_>>().into()
}

/// A text that may be a string, or a list of lines.
fn text_of(value: &Value) -> String {
    match value {
        Value::Array(lines) => lines.iter().filter_map(Value::as_str).collect(),
        other => other.as_str().unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_begin_at_their_marks_and_text_is_no_code() {
        let text = "import math\n\n# %% one\nx = 1\n\n\nx\n# %% [markdown]\n# # Title\n# text\n#%%\n\n# %%\ny\n";
        let notebook = Notebook::from_python(text);
        let code: Vec<_> = notebook.code().into_iter().map(|code| (code.at, code.source)).collect();
        let expected = [(0, "import math"), (1, "x = 1\n\n\nx"), (3, "y")];
        assert_eq!(code, expected.map(|(at, source)| (at, source.to_owned())));
        assert_eq!(notebook.0["cells"][2]["source"], json!(["# Title\n", "text"]));
    }

    #[test]
    fn what_is_no_notebook_is_refused_with_the_reason() {
        let said = |text: &str| format!("{:#}", Notebook::from_json(text).err().unwrap());
        assert!(said("{").starts_with("this is no notebook: EOF"), "{}", said("{"));
        assert_eq!(said("{}"), "this is no notebook: it has no `nbformat`");
        assert_eq!(said("{\"nbformat\": 4}"), "this is no notebook: it has no list of `cells`");
        assert!(said("{\"nbformat\": 3}").starts_with("the notebook is of format 3, and only 4"));
    }
}
