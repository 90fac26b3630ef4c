//! What tools answer: for a model to read, and the same as data beside it.

use std::time::Duration;

use rmcp::model::{CallToolResult, ContentBlock};
use serde_json::{Value, json};
use sessile::interpreter::{Execution, InterpreterError, MimeBundle, Output, Variable};

use super::sessions::Told;

/// The kinds of images that clients know.
const IMAGES: [&str; 4] = ["image/png", "image/jpeg", "image/gif", "image/webp"];

pub(super) fn error(text: impl Into<String>) -> CallToolResult {
    CallToolResult::error(vec![ContentBlock::text(text.into())])
}

pub(super) fn text(text: impl Into<String>, data: Value) -> CallToolResult {
    let mut result = CallToolResult::success(vec![ContentBlock::text(text.into())]);
    result.structured_content = Some(data);
    result
}

/// What came of a cell.
pub(super) fn execution(session: &str, is_new: bool, execution: &Execution) -> CallToolResult {
    let mut text = execution.to_markdown();
    text.push_str(&note(session, is_new));
    let shown = execution.outputs.iter().filter_map(|output| match output {
        Output::Display { data } => Some(data),
        _ => None,
    });
    let images: Vec<_> = shown.chain(&execution.result).filter_map(image).collect();
    let error = execution.error.as_ref();
    let data = json!({
        "session": session,
        "ok": execution.is_ok(),
        "stdout": execution.stdout(),
        "stderr": execution.stderr(),
        "result": execution.text(),
        "error": error.map(|error| json!({ "name": error.name, "value": error.value })),
        "images": images.len(),
        "timed_out": execution.timed_out,
        "truncated": execution.truncated,
        "execution_count": execution.execution_count,
        "duration_ms": execution.duration.as_micros() as f64 / 1e3,
    });
    let mut content = vec![ContentBlock::text(text)];
    content.extend(images);
    let mut result = match execution.is_ok() {
        true => CallToolResult::success(content),
        false => CallToolResult::error(content),
    };
    result.structured_content = Some(data);
    result
}

fn note(session: &str, is_new: bool) -> String {
    match is_new {
        true => {
            format!("[new session: pass `session` = \"{session}\" to go on with its variables]\n")
        }
        false => String::new(),
    }
}

fn image(data: &MimeBundle) -> Option<ContentBlock> {
    let (mime, base64) =
        IMAGES.into_iter().find_map(|mime| Some((mime, data.get(mime)?.as_str()?)))?;
    Some(ContentBlock::image(base64.split_ascii_whitespace().collect::<String>(), mime))
}

/// The engine has failed, not the code.
pub(super) fn failure(session: &str, failed: &InterpreterError) -> CallToolResult {
    let mut so_far = Execution::default();
    so_far.outputs = failed.outputs().to_vec();
    let mut text = match so_far.outputs.is_empty() {
        true => String::new(),
        false => so_far.to_markdown(),
    };
    let lost = failed.state_lost();
    text.push_str(&match lost {
        true => format!(
            "[{failed}; all variables and files of session {session} are gone; the next call with it begins \
             anew]\n"
        ),
        false => format!("[{failed}; the variables of session {session} are kept]\n"),
    });
    let mut result = error(text);
    result.structured_content =
        Some(json!({ "session": session, "ok": false, "state_lost": lost }));
    result
}

pub(super) fn variables(session: &str, variables: &[Variable]) -> CallToolResult {
    let data = json!({ "session": session, "variables": variables });
    if variables.is_empty() {
        return text("[no variables]\n", data);
    }
    let cell = |text: &str| text.replace('\\', "\\\\").replace('|', "\\|").replace('\n', " ");
    let row = |v: &Variable| {
        let repr = match v.repr.char_indices().nth(80) {
            Some((end, _)) => format!("{} ...", &v.repr[..end]),
            None => v.repr.clone(),
        };
        format!("| {} | {} | {} |\n", cell(&v.name), cell(&v.kind), cell(&repr))
    };
    let rows: String = variables.iter().map(row).collect();
    text(format!("| name | type | value |\n|---|---|---|\n{rows}"), data)
}

pub(super) fn sessions(own: &[Told], others: usize) -> CallToolResult {
    let seconds = |time: Duration| time.as_secs();
    let rows: String = own
        .iter()
        .map(|told| {
            let state = if told.is_running { "running" } else { "idle" };
            format!("| {} | {state} | {} | {} s |\n", told.session, told.calls, seconds(told.age))
        })
        .collect();
    let list: Vec<_> = own
        .iter()
        .map(|told| {
            json!({ "session": told.session, "running": told.is_running, "calls": told.calls,
                "age_s": seconds(told.age), "idle_s": seconds(told.idle) })
        })
        .collect();
    let mut said = match own.is_empty() {
        true => "[this connection has begun no session]\n".to_owned(),
        false => format!("| session | state | calls | age |\n|---|---|---|---|\n{rows}"),
    };
    if others > 0 {
        said.push_str(&format!(
            "[{others} of others are not shown: who has their handles can use them]\n"
        ));
    }
    text(said, json!({ "sessions": list, "others": others }))
}
