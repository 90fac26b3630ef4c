//! What the tools are called, what they say of themselves, and what they take.

use std::sync::Arc;

use rmcp::model::{JsonObject, Tool, ToolAnnotations};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Limits;
use crate::engine::Engine;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RunPython {
    pub(super) code: String,
    pub(super) session: Option<String>,
    pub(super) timeout: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OfSession {
    pub(super) session: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(not(all(feature = "cpython", unix)), allow(dead_code))]
pub(super) struct PutFile {
    pub(super) session: Option<String>,
    pub(super) name: String,
    pub(super) text: Option<String>,
    pub(super) base64: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(not(all(feature = "cpython", unix)), allow(dead_code))]
pub(super) struct GetFile {
    pub(super) session: String,
    pub(super) name: String,
}

/// What a model is told of the server as a whole.
pub(super) fn instructions(engine: Engine) -> String {
    let files =
        if engine == Engine::Cpython { ", and a directory of its own for files" } else { "" };
    format!(
        "Python sessions ({}). `run_python` without `session` begins one and says its handle; pass that as \
         `session` to go on with its variables. Sessions share nothing; each keeps its variables from call \
         to call{files}.",
        engine.name()
    )
}

/// All tools that the engine can offer.
pub(super) fn all(engine: Engine, limits: &Limits) -> Vec<Tool> {
    let session = json!({ "type": "string", "description": "The session's handle, as `run_python` said it." });
    let name = json!({ "type": "string", "description": "Path below the session's directory." });
    let language = match engine {
        Engine::Monty => {
            "The Python is Monty, a subset: functions, loops, comprehensions, f-strings, `math`, `re`, `json`, \
             `datetime`; no classes that inherit, no packages, no files, no network."
        }
        Engine::Cpython => "The Python is CPython. The working directory is the session's own.",
        Engine::Fallback => {
            "The Python is quick to start and knows a subset; code that needs more goes on in CPython, with \
             its variables, where they can be taken along."
        }
        Engine::Jupyter => "The code runs in a Jupyter kernel.",
    };
    let (timeout, longest) = (limits.timeout.as_secs_f64(), limits.max_timeout.as_secs_f64());
    let mut tools = vec![
        tool(
            "run_python",
            "Run Python code",
            &format!(
                "Runs code and returns what it printed, the value of its last expression, images it showed, \
                 and the traceback if it raised. Variables are kept for later calls with the same `session`. \
                 {language}"
            ),
            json!({
                "code": { "type": "string", "description": "The code, of one line or many." },
                "session": { "type": "string",
                    "description": "A handle from an earlier answer. Left out, a new session begins." },
                "timeout": { "type": "number", "exclusiveMinimum": 0, "description": format!(
                    "Seconds after which the code is stopped, with its variables kept. Default {timeout}, at most {longest}.") },
            }),
            &["code"],
            ToolAnnotations::new().read_only(false).open_world(engine != Engine::Monty),
        ),
        tool(
            "reset",
            "Reset a session",
            "Throws away all variables of a session, and its files, and begins anew under the same handle.",
            json!({ "session": session }),
            &["session"],
            ToolAnnotations::new().destructive(true).idempotent(true).open_world(false),
        ),
        tool(
            "close_session",
            "Close a session",
            "Ends a session that is no longer needed. Its variables and files are gone.",
            json!({ "session": session }),
            &["session"],
            ToolAnnotations::new().destructive(true).open_world(false),
        ),
        tool(
            "list_sessions",
            "List sessions",
            "Lists the sessions that this connection has begun.",
            json!({}),
            &[],
            ToolAnnotations::new().read_only(true).open_world(false),
        ),
        tool(
            "variables",
            "Show variables",
            "Shows a session's variables: name, type, and the beginning of the value.",
            json!({ "session": session }),
            &["session"],
            ToolAnnotations::new().read_only(true).open_world(false),
        ),
    ];
    if engine == Engine::Cpython {
        tools.extend([
            tool(
                "put_file",
                "Put a file",
                "Writes a file into a session's directory, where code finds it by its name. Give `text` or \
                 `base64`.",
                json!({
                    "session": { "type": "string",
                        "description": "A handle from an earlier answer. Left out, a new session begins." },
                    "name": name,
                    "text": { "type": "string", "description": "The contents, as text." },
                    "base64": { "type": "string", "description": "The contents, as base64." },
                }),
                &["name"],
                ToolAnnotations::new().idempotent(true).open_world(false),
            ),
            tool(
                "get_file",
                "Get a file",
                "Returns a file of a session's directory.",
                json!({ "session": session, "name": name }),
                &["session", "name"],
                ToolAnnotations::new().read_only(true).open_world(false),
            ),
            tool(
                "list_files",
                "List files",
                "Lists the files in a session's directory.",
                json!({ "session": session }),
                &["session"],
                ToolAnnotations::new().read_only(true).open_world(false),
            ),
        ]);
    }
    tools
}

fn tool(
    name: &'static str,
    title: &str,
    description: &str,
    properties: Value,
    required: &[&str],
    annotations: ToolAnnotations,
) -> Tool {
    let schema = json!({
        "type": "object", "properties": properties, "required": required, "additionalProperties": false,
    });
    let Value::Object(schema) = schema else { unreachable!("it is written so above") };
    let schema: Arc<JsonObject> = Arc::new(schema);
    Tool::new(name, description.to_owned(), schema).with_title(title).with_annotations(annotations)
}
