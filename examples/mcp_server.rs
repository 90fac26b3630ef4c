//! An MCP server over standard input and output, with three tools: one counts, tells of its progress and
//! can be called off, one asks the client back, and one has the client's model say something.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use sessile::session::duplex::{Request, Session, Stdio};
use sessile::session::{Mcp, RemoteError};
use sessile::{Pool, Workers, from_fn};

fn answer(request: &Request) -> anyhow::Result<Value> {
    let tool = |name| json!({"name": name, "inputSchema": {"type": "object"}});
    Ok(match request.method() {
        "initialize" => json!({
            "protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
            "serverInfo": {"name": "three tools", "version": "1.0.0"}
        }),
        "ping" => json!({}),
        "tools/list" => json!({"tools": [tool("count"), tool("roots"), tool("say")]}),
        "tools/call" => {
            let call: Value = request.parse()?; // or the client is told: invalid parameters
            let text = match call["name"].as_str() {
                Some("count") => count(request, call["arguments"]["to"].as_u64().unwrap_or(10)),
                Some("roots") => request.invoker().call::<Value>("roots/list", ())?.to_string(),
                Some("say") => say(request)?,
                _ => return Err(RemoteError::new("no such tool").with_code(-32602).into()),
            };
            json!({"content": [{"type": "text", "text": text}]})
        }
        _ => return Err(RemoteError::new("no such method").with_code(-32601).into()),
    })
}

fn count(request: &Request, to: u64) -> String {
    let counted = (1..=to).take_while(|n| {
        // An error: the client has not asked for progress. That is no reason to stop.
        let _ = request.progress(&json!({"progress": n, "total": to}));
        thread::sleep(Duration::from_millis(5));
        !request.is_cancelled()
    });
    format!("counted to {}", counted.count())
}

fn say(request: &Request) -> anyhow::Result<String> {
    let content = json!({"type": "text", "text": "Say something."});
    let asks = json!({"messages": [{"role": "user", "content": content}], "maxTokens": 10});
    let said: Value = request.invoker().call("sampling/createMessage", asks)?;
    Ok(said["content"]["text"].as_str().unwrap_or_default().to_owned())
}

pub(crate) fn main() -> anyhow::Result<()> {
    let workers = Workers::builder(Pool::builder(from_fn(|_| ()))).threads(4).build()?;
    let session = Session::builder(Mcp::new())
        .handlers(workers, |(), request| answer(request))
        .connect(Stdio::new())?;
    while !session.wait_closed(Duration::from_secs(3600)) {} // until the client closes our input
    Ok(())
}
