//! A language server over standard input and output. It keeps the documents that are open, and says of a
//! line how many words it has.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sessile::session::duplex::{ContentLength, Request, Session, Stdio};
use sessile::session::{Lsp, Notification, RemoteError};
use sessile::{Pool, Workers, from_fn};

type Documents = HashMap<String, String>;

fn answer(documents: &Documents, request: &Request) -> anyhow::Result<Value> {
    Ok(match request.method() {
        "initialize" => json!({"capabilities": {"textDocumentSync": 1, "hoverProvider": true}}),
        "shutdown" => Value::Null,
        "textDocument/hover" => {
            let asked: Value = request.parse()?; // or the client is told: invalid parameters
            let text = asked["textDocument"]["uri"].as_str().and_then(|uri| documents.get(uri));
            let line = asked["position"]["line"].as_u64().unwrap_or_default();
            let line = text.and_then(|text| text.lines().nth(line as usize)).unwrap_or_default();
            json!({"contents": format!("{} words", line.split_whitespace().count())})
        }
        _ => return Err(RemoteError::new("no such method").with_code(-32601).into()),
    })
}

fn hear(documents: &mut Documents, told: &Notification) {
    let about: Value = told.parse().unwrap_or_default();
    let document = &about["textDocument"];
    let text = match &*told.method {
        "textDocument/didOpen" => &document["text"],
        "textDocument/didChange" => &about["contentChanges"][0]["text"],
        "exit" => std::process::exit(0),
        _ => return,
    };
    if let (Some(uri), Some(text)) = (document["uri"].as_str(), text.as_str()) {
        documents.insert(uri.to_owned(), text.to_owned());
    }
}

pub(crate) fn main() -> anyhow::Result<()> {
    // One thread, which has the documents: so what is told and what is asked keep their order.
    let documents = Pool::builder(from_fn(|_| Documents::new()));
    let worker = Arc::new(Workers::builder(documents).threads(1).build()?);
    let session = Session::builder(Lsp::new())
        .framing(ContentLength::new())
        .handlers(Arc::clone(&worker), |documents, request| answer(documents, request))
        .notification_handlers(worker, |documents, _, told| hear(documents, &told))
        .connect(Stdio::new())?;
    while !session.wait_closed(Duration::from_secs(3600)) {}
    Ok(())
}
