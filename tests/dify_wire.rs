//! What goes over the wire, field by field, beside what Dify's own SDK says in its place: each thing that
//! a plugin can ask of Dify, and each action of a provider.

#![cfg(all(feature = "dify", unix))]

mod support;
#[path = "support/venv.rs"]
mod venv;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};

use data_encoding::HEXLOWER;
use serde::Serialize;
use serde_json::{Value, json};
use sessile::session::dify::{
    ActionError, ActionRequest, Browse, Bucket, Daemon, Datasource, DatasourceActions,
    DatasourceKind, DatasourceProvider, Dify, Dispatch, DriveFile, EmbeddingInput, Embeddings,
    Environment, ErrorType, Event, HostedPlugin, HttpRequest, HttpResponse, LlmAsk, LlmChunk,
    LlmRequest, LlmUsage, LogStep, Manifest, ModelActions, ModelConfig, ModelProvider,
    ModelRequest, MultimodalContent, OAuthActions, OAuthCredentials, OnlinePage, Plugin,
    PromptMessage, PromptTool, RankedDocument, Ranking, ReverseCall, RunningPlugin, SelectOption,
    SessionContext, Strategy, StrategyProvider, Subscription, ToolCall, ToolMessage,
    TriggerActions, TriggerProvider, Voice, Workspace,
};
use support::{PATIENCE, promptly};

// ---- the SDK --------------------------------------------------------------------------------------

/// The SDK's own code, without its stream.
struct Sdk {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Sdk {
    fn new() -> Self {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
        let python = venv::python_312(&tests.join("dify_plugin/requirements.txt"));
        let mut child = Command::new(python)
            .arg(tests.join("dify_wire/says.py"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (to, from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, to, from: BufReader::new(from) }
    }

    fn ask(&mut self, what: &Value) -> Value {
        writeln!(self.to, "{what}").unwrap();
        let mut line = String::new();
        assert_ne!(self.from.read_line(&mut line).unwrap(), 0, "the SDK has ended at {what}");
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for Sdk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn meet(daemon: &Daemon, plugin: Plugin) -> (HostedPlugin, RunningPlugin) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let running = plugin.run(&Environment::remote(address, "a key")).unwrap();
    (daemon.accept(&listener, PATIENCE).unwrap(), running)
}

/// Numbers are compared as numbers: `1` and `1.0` are the same.
fn numbers(value: &mut Value) {
    match value {
        Value::Number(number) => *value = json!(number.as_f64()),
        Value::Array(all) => all.iter_mut().for_each(numbers),
        Value::Object(all) => all.values_mut().for_each(numbers),
        _ => {}
    }
}

/// Ids and times are by chance; and the SDK has nothing to say of where in Python an error was.
fn comparable(mut said: Value) -> Value {
    numbers(&mut said);
    if let Some(message) = said.pointer_mut("/data/message").and_then(Value::as_object_mut) {
        message.remove("id");
    }
    if let Some(args) = said.pointer_mut("/data/args") {
        *args = json!({});
    }
    if said["type"] == "error" {
        said["data"]["args"] = json!({});
    }
    said
}

// ---- what a plugin asks of Dify ---------------------------------------------------------------------

fn model() -> ModelConfig {
    ModelConfig::new("p", "m").set("temperature", 0.5)
}

fn documents() -> [MultimodalContent; 2] {
    [MultimodalContent::text("a boat"), MultimodalContent::image("aGk=")]
}

fn said<T: Serialize>(value: T) -> anyhow::Result<Value> {
    Ok(serde_json::to_value(value)?)
}

/// The same calls as the SDK makes, by the same names.
fn call(name: &str, dify: &Dify) -> anyhow::Result<Value> {
    let hi = || LlmRequest::new(model()).message(PromptMessage::user("hi"));
    let pieces = |all: sessile::session::duplex::Invocation| -> anyhow::Result<Value> {
        let pieces: Result<Vec<_>, _> = all.into_iter().map(|piece| Ok(piece?.value()?)).collect();
        pieces.map(Value::from)
    };
    let chunks = |all: sessile::session::dify::LlmChunks| -> anyhow::Result<Value> {
        said(all.collect::<Result<Vec<_>, _>>()?)
    };
    match name {
        "llm" => {
            let calls = [ToolCall::new("c1", "boats", r#"{"a":1}"#)];
            let boats = PromptTool::new("boats", "Lists boats", json!({"type": "object"}));
            let ask = LlmRequest::new(model())
                .message(PromptMessage::system("Be brief."))
                .message(PromptMessage::user("Which boat?"))
                .message(PromptMessage::assistant("").calls(calls))
                .message(PromptMessage::tool("c1", "tide"))
                .tool(boats)
                .stop("\n");
            chunks(dify.llm(&ask)?)
        }
        "llm_plain" => chunks(dify.llm(&hi())?),
        "structured" => chunks(dify.llm_structured(&hi(), &json!({"type": "object"}))?),
        "embed" => said(dify.embed(&model(), &["a", "b"], EmbeddingInput::Document)?),
        "embed_multimodal" => {
            said(dify.embed_multimodal(&model(), "t", &documents(), EmbeddingInput::Query)?)
        }
        "rerank" => said(dify.rerank(&model(), "q", &["a", "b"], 0.5, 1)?),
        "rerank_multimodal" => {
            let all = documents();
            said(dify.rerank_multimodal(&model(), &all[0], &all, None, None)?)
        }
        "tts" => {
            let spoken = dify.speak(&model(), "ann", "hello")?;
            let hex = spoken.map(|piece| Ok(HEXLOWER.encode(&piece?)));
            said(hex.collect::<anyhow::Result<Vec<_>>>()?)
        }
        "stt" => said(dify.transcribe(&model(), b"\x00\xff")?),
        "moderation" => said(dify.moderate(&model(), "text")?),
        "extractor" => {
            let boat = json!({
                "name": "boat", "type": "string", "options": [], "description": "d",
                "required": true,
            });
            said(dify.extract_parameters(&[boat], &model(), "q", "i")?)
        }
        "classifier" => said(dify.classify(&[("1", "boats")], &model(), "q", "i")?),
        "tool" => pieces(dify.tool("builtin", "p", "t", &json!({"a": 1}))?),
        "tool_as" => pieces(dify.tool_as("api", "p", "t", &json!({}), Some("mine"))?),
        "upload" => {
            // All but the upload itself, for which there is another test.
            let request = json!({"filename": "a.svg", "mimetype": "image/svg+xml"});
            Ok(dify.call(sessile::session::dify::InvokeKind::UploadFile, &request)?)
        }
        "set" => said(dify.storage_set("k", b"\x00\xff")?),
        "get" => said(HEXLOWER.encode(&dify.storage_get("k")?)),
        "del" => said(dify.storage_delete("k")?),
        "exist" => said(dify.storage_exists("k")?),
        "chat" => pieces(dify.chat("a", "q", &json!({"x": 1}), Some("c"))?),
        "chat_blocking" => said(dify.chat_blocking("a", "q", &json!({}), None)?),
        "workflow" => pieces(dify.run_app("a", &json!({"x": 1}))?),
        "summary" => said(dify.summary(&"x".repeat(2000), "shorten")?),
        "fetch" => said(dify.fetch_app("a")?),
        _ => anyhow::bail!("no such call: {name}"),
    }
}

fn chunk(text: &str, more: Value) -> Value {
    let mut chunk = json!({
        "model": "m", "system_fingerprint": "f", "prompt_messages": [],
        "delta": {
            "index": 0, "usage": null, "finish_reason": null,
            "message": {"role": "assistant", "content": text, "name": null, "tool_calls": []},
        },
    });
    for (at, value) in more.as_object().unwrap() {
        *chunk.pointer_mut("/delta").unwrap().get_mut(at).unwrap() = value.clone();
    }
    chunk
}

/// Each call, and what Dify answers.
fn calls() -> Vec<(&'static str, Vec<Value>)> {
    let usage = json!({
        "prompt_tokens": 3, "prompt_unit_price": "0.1", "prompt_price_unit": "0.001",
        "prompt_price": "0.3", "completion_tokens": 5, "completion_unit_price": "0.2",
        "completion_price_unit": "0.001", "completion_price": "1", "total_tokens": 8,
        "total_price": "1.3", "currency": "USD", "latency": 0.25,
    });
    let costs = json!({
        "tokens": 2, "total_tokens": 2, "unit_price": "0", "price_unit": "0", "total_price": "0",
        "currency": "USD", "latency": 0.5,
    });
    let wants = json!({
        "role": "assistant", "content": "", "name": null, "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "b", "arguments": "{}"}}],
    });
    let mut shaped = chunk("", json!({"usage": usage.clone(), "finish_reason": "stop"}));
    shaped["structured_output"] = json!({"boat": "tide"});
    let text = json!({"type": "text", "message": {"text": "hi"}, "meta": null});
    let vectors = json!({"model": "m", "embeddings": [[0.5, 1.0], [0.25, 0.0]], "usage": costs});
    let ranked = json!({"model": "m", "docs": [{"index": 1, "text": "b", "score": 0.75}]});
    let node = json!({"process_data": {"a": 1}, "inputs": {}, "outputs": {"class_name": "boats"}});
    let last = json!({"usage": usage, "finish_reason": "tool_calls", "message": wants});
    vec![
        ("llm", vec![chunk("a", json!({})), chunk("b", last)]),
        ("llm_plain", vec![]),
        ("structured", vec![chunk("a", json!({})), shaped]),
        ("embed", vec![vectors.clone()]),
        ("embed_multimodal", vec![vectors]),
        ("rerank", vec![ranked.clone()]),
        ("rerank_multimodal", vec![ranked]),
        ("tts", vec![json!({"result": "00ff"}), json!({"result": ""}), json!({"result": "61"})]),
        ("stt", vec![json!({"result": "hello"})]),
        ("moderation", vec![json!({"result": true})]),
        ("extractor", vec![node.clone()]),
        ("classifier", vec![node]),
        ("tool", vec![text.clone(), text]),
        ("tool_as", vec![]),
        ("upload", vec![json!({"url": "http://x/1"})]),
        ("set", vec![json!({"data": "ok"})]),
        ("get", vec![json!({"data": "00ff"})]),
        ("del", vec![json!({"data": "ok"})]),
        ("exist", vec![json!({"data": true})]),
        ("chat", vec![json!({"event": "message", "answer": "a"}), json!({"event": "end"})]),
        ("chat_blocking", vec![json!({"answer": "a"})]),
        ("workflow", vec![json!({"event": "workflow_finished"})]),
        ("summary", vec![json!({"summary": "short"})]),
        ("fetch", vec![json!({"name": "app"})]),
    ]
}

#[test]
fn what_is_asked_of_dify_is_what_the_sdk_asks_field_by_field() {
    promptly("all is compared", || {
        let mut sdk = Sdk::new();
        let (asked, answers) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
        let (hears, gives) = (Arc::clone(&asked), Arc::clone(&answers));
        let daemon = Daemon::new("a key").on_invocation(move |call: ReverseCall| {
            let request: Value = call.parse().unwrap();
            hears.lock().unwrap().push(json!({
                "type": "invoke", "data": {"type": call.kind(), "request": request},
            }));
            let answers: Vec<Value> = gives.lock().unwrap().clone();
            answers.iter().for_each(|answer| call.send(answer).unwrap());
            call.finish();
        });
        let plugin = Plugin::new(Manifest::new("sessile", "asks", "0.0.1")).tool(
            "desk",
            "call",
            |request| {
                let name: String = request.parameter("name")?;
                let result = call(&name, &request.dify())?;
                Ok(request.send(ToolMessage::json(json!({"result": result})))?)
            },
        );
        let (hosted, _running) = meet(&daemon, plugin);
        let context = json!({"credentials": {"tool_credentials": {"p": "chosen"}}});
        let mut from = SessionContext::default();
        (from.app_id, from.context) = (Some("an app".to_owned()), context.clone());
        for (name, replies) in calls() {
            *answers.lock().unwrap() = replies.clone();
            let fields = json!({
                "provider": "desk", "tool": "call", "credentials": {},
                "credential_type": "api-key", "tool_parameters": {"name": name},
            });
            let mut reply = hosted.request_from(&from, "tool", "invoke_tool", &fields).unwrap();
            let ours = reply.next().unwrap().unwrap().value().unwrap();
            let mut ours = ours["message"]["json_object"]["result"].clone();
            assert!(reply.next().is_none(), "{name}");
            let mut we_ask = asked.lock().unwrap().pop().unwrap();
            let mut theirs = sdk.ask(&json!({
                "call": name, "answers": replies, "app_id": "an app", "context": context,
            }));
            let mut they_ask = theirs["said"].take();
            let mut theirs = theirs["result"].take();
            for value in [&mut ours, &mut theirs, &mut we_ask, &mut they_ask] {
                numbers(value);
            }
            if let ("structured", Value::Array(pieces)) = (name, &mut theirs) {
                // The SDK says of each piece that it has none.
                pieces[0].as_object_mut().unwrap().remove("structured_output");
            }
            assert_eq!(we_ask, they_ask, "{name} asks");
            // A message of a tool is given as it came.
            if !name.starts_with("tool") {
                assert_eq!(ours, theirs, "{name} hears");
            }
        }
    });
}

// ---- what Dify asks of providers ---------------------------------------------------------------------

fn is_right(request: &ActionRequest) -> anyhow::Result<()> {
    let key: Option<String> = request.credential("key")?;
    anyhow::ensure!(key.as_deref() == Some("right"), "the key is wrong");
    Ok(())
}

struct Models;

fn vectors(model: ModelRequest, lengths: impl Iterator<Item = usize>, tokens: u64) -> Embeddings {
    Embeddings::new(model.model, lengths.map(|length| vec![length as f64, 0.5]).collect(), tokens)
}

impl ModelActions for Models {
    fn validate_provider_credentials(&self, request: &ActionRequest) -> anyhow::Result<()> {
        is_right(request)
    }

    fn validate_model_credentials(
        &self,
        request: &ActionRequest,
        _: ModelRequest,
    ) -> anyhow::Result<()> {
        is_right(request)
    }

    fn llm(&self, request: &ActionRequest, ask: LlmAsk) -> anyhow::Result<()> {
        let all = ask.prompt_messages.iter();
        let text: Vec<_> =
            all.map(|message| format!("{}:{}", message.role, message.text())).collect();
        let model = &ask.model.model;
        request.answer(&LlmChunk::new(model, 0, text.join("|")))?;
        if model == "fails" {
            return Err(ActionError::new(ErrorType::RateLimit, "three a day").into());
        }
        let last = LlmChunk::new(model, 1, "").calls([ToolCall::new("c1", "b", "{}")]);
        Ok(request.answer(&last.last("stop", LlmUsage::tokens(3, 5)))?)
    }

    fn start_polling(&self, _: &ActionRequest, _: LlmAsk) -> anyhow::Result<Value> {
        Ok(json!({
            "status": "running", "plugin_state": {"id": 7}, "result": null, "error": null,
            "next_check_after_seconds": null, "expires_after_seconds": null, "max_attempts": null,
        }))
    }

    fn check_polling(&self, _: &ActionRequest, ask: LlmAsk) -> anyhow::Result<Value> {
        let id = ask.plugin_state.unwrap_or_default()["id"].clone();
        Ok(json!({
            "status": "failed", "plugin_state": null, "result": null, "error": format!("no {id}"),
            "next_check_after_seconds": null, "expires_after_seconds": null, "max_attempts": null,
        }))
    }

    fn llm_tokens(&self, _: &ActionRequest, ask: LlmAsk) -> anyhow::Result<u64> {
        Ok((ask.prompt_messages.len() + ask.tools.len()) as u64)
    }

    fn embed(
        &self,
        _: &ActionRequest,
        model: ModelRequest,
        texts: Vec<String>,
        _: EmbeddingInput,
    ) -> anyhow::Result<Embeddings> {
        Ok(vectors(model, texts.iter().map(String::len), texts.len() as u64))
    }

    fn embed_multimodal(
        &self,
        _: &ActionRequest,
        model: ModelRequest,
        documents: Vec<MultimodalContent>,
        _: EmbeddingInput,
    ) -> anyhow::Result<Embeddings> {
        Ok(vectors(model, documents.iter().map(|document| document.content.len()), 2))
    }

    fn embedding_tokens(
        &self,
        _: &ActionRequest,
        _: ModelRequest,
        texts: Vec<String>,
    ) -> anyhow::Result<Vec<u64>> {
        Ok(texts.iter().map(|text| text.len() as u64).collect())
    }

    fn rerank(
        &self,
        _: &ActionRequest,
        model: ModelRequest,
        _: String,
        documents: Vec<String>,
    ) -> anyhow::Result<Ranking> {
        let document = RankedDocument { index: 1, text: documents[1].clone(), score: 0.75 };
        Ok(Ranking::new(model.model, vec![document]))
    }

    fn rerank_multimodal(
        &self,
        _: &ActionRequest,
        model: ModelRequest,
        _: MultimodalContent,
        documents: Vec<MultimodalContent>,
    ) -> anyhow::Result<Ranking> {
        let document = RankedDocument { index: 0, text: documents[0].content.clone(), score: 0.5 };
        Ok(Ranking::new(model.model, vec![document]))
    }

    fn speak(
        &self,
        request: &ActionRequest,
        model: ModelRequest,
        voice: String,
        text: String,
    ) -> anyhow::Result<()> {
        for said in [voice, text] {
            match &*model.model {
                "wav" => request.audio_of("audio/wav", said.as_bytes())?,
                _ => request.audio(said.as_bytes())?,
            }
        }
        Ok(())
    }

    fn voices(
        &self,
        _: &ActionRequest,
        _: ModelRequest,
        language: Option<String>,
    ) -> anyhow::Result<Vec<Voice>> {
        Ok(vec![Voice::new(format!("Ann {}", language.as_deref().unwrap_or("None")), "ann")])
    }

    fn transcribe(
        &self,
        _: &ActionRequest,
        _: ModelRequest,
        audio: Vec<u8>,
    ) -> anyhow::Result<String> {
        Ok(HEXLOWER.encode(&audio))
    }

    fn moderate(&self, _: &ActionRequest, _: ModelRequest, text: String) -> anyhow::Result<bool> {
        Ok(text.contains("bad"))
    }
}

struct Shelf;

impl DatasourceActions for Shelf {
    fn validate_credentials(&self, request: &ActionRequest) -> anyhow::Result<()> {
        is_right(request)
            .map_err(|error| ActionError::new(ErrorType::Value, error.to_string()).into())
    }

    fn crawl(&self, request: &ActionRequest) -> anyhow::Result<()> {
        let url: String = request.parameter("url")?;
        let mut said = json!({
            "status": "processing", "web_info_list": [], "total": 1, "completed": 0,
        });
        request.answer(&json!({"result": said}))?;
        said["status"] = "completed".into();
        said["completed"] = 1.into();
        said["web_info_list"] =
            json!([{"source_url": url, "content": "c", "title": "t", "description": "d"}]);
        Ok(request.answer(&json!({"result": said}))?)
    }

    fn pages(&self, _: &ActionRequest) -> anyhow::Result<Vec<Workspace>> {
        Ok(vec![Workspace::new("w", "Harbour").page(OnlinePage::new("p1", "Log"))])
    }

    fn page_content(&self, request: &ActionRequest, page: OnlinePage) -> anyhow::Result<()> {
        let text = format!("page {} of {}", page.page_id, page.workspace_id);
        Ok(request.send(ToolMessage::variable("content", text))?)
    }

    fn browse(&self, _: &ActionRequest, browse: Browse) -> anyhow::Result<Vec<Bucket>> {
        let prefix = browse.prefix.unwrap_or_default();
        let files = vec![DriveFile::new("f1", "chart.svg", 5000), DriveFile::folder("f2", prefix)];
        let next = Some(json!({"from": browse.max_keys}));
        Ok(vec![Bucket {
            bucket: browse.bucket,
            files,
            is_truncated: true,
            next_page_parameters: next,
        }])
    }

    fn download(&self, request: &ActionRequest, file: DriveFile) -> anyhow::Result<()> {
        let blob = ToolMessage::blob(file.id.into_bytes());
        Ok(request.send(blob.meta(json!({"mime_type": "text/plain"})))?)
    }
}

struct Bell;

impl TriggerActions for Bell {
    fn dispatch(
        &self,
        _: &ActionRequest,
        http: &HttpRequest,
        subscription: &Subscription,
    ) -> anyhow::Result<Dispatch> {
        let response = HttpResponse::text("ok").header("Content-Type", "text/plain");
        let id = subscription.properties["id"].as_str().unwrap_or_default();
        let payload: Value = serde_json::from_slice(&http.body)?;
        Ok(Dispatch::new(["arrived"], response).user(id).payload(payload))
    }

    fn event(
        &self,
        _: &str,
        request: &ActionRequest,
        http: &HttpRequest,
        payload: &Value,
    ) -> anyhow::Result<Value> {
        if request.parameter::<Option<bool>>("ignore")?.is_some() {
            return Err(ActionError::new(ErrorType::EventIgnored, "").into());
        }
        Ok(json!({"boat": payload["boat"], "path": http.path}))
    }

    fn validate_credentials(&self, request: &ActionRequest) -> anyhow::Result<()> {
        is_right(request)
            .map_err(|error| ActionError::new(ErrorType::Value, error.to_string()).into())
    }

    fn subscribe(&self, request: &ActionRequest, endpoint: &str) -> anyhow::Result<Subscription> {
        let mut subscription = Subscription::new(endpoint);
        subscription.expires_at = 7;
        subscription.parameters = request.parameters()?;
        subscription.properties = json!({"id": "x"});
        Ok(subscription)
    }

    fn unsubscribe(&self, _: &ActionRequest, _: &Subscription) -> anyhow::Result<()> {
        Ok(())
    }

    fn refresh(
        &self,
        _: &ActionRequest,
        subscription: &Subscription,
    ) -> anyhow::Result<Subscription> {
        let mut renewed = Subscription::new(&subscription.endpoint);
        renewed.properties = subscription.properties.clone();
        Ok(renewed)
    }
}

struct Login;

impl OAuthActions for Login {
    fn authorization_url(
        &self,
        _: &ActionRequest,
        redirect_uri: &str,
        system: &Value,
    ) -> anyhow::Result<String> {
        let id = system["id"].as_str().unwrap_or_default();
        Ok(format!("https://x/?id={id}&to={redirect_uri}"))
    }

    fn credentials(
        &self,
        _: &ActionRequest,
        _: &str,
        _: &Value,
        http: &HttpRequest,
    ) -> anyhow::Result<OAuthCredentials> {
        let mut got = OAuthCredentials::new(json!({"token": http.parameter("code")}));
        got.expires_at = 9;
        got.metadata = json!({"name": "Ann"});
        Ok(got)
    }

    fn refresh(
        &self,
        request: &ActionRequest,
        _: &str,
        _: &Value,
    ) -> anyhow::Result<OAuthCredentials> {
        let token: String = request.credential("token")?;
        Ok(OAuthCredentials::new(json!({"token": token + "+"})))
    }
}

fn manifest() -> Manifest {
    Manifest::new("sessile", "acts", "0.0.1")
}

fn hex_of(request: &str) -> String {
    HEXLOWER.encode(request.as_bytes())
}

fn of_models() -> Vec<Value> {
    let ask = |model_type: &str, action: &str, fields: Value| {
        let mut all = json!({
            "type": "model", "action": action, "user_id": "u", "provider": "p",
            "model_type": model_type, "model": "m", "credentials": {"key": "right"},
        });
        all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        all
    };
    let said = json!([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "name": "Ann", "content": [
            {"type": "text", "data": "What is "},
            {"type": "image", "format": "png", "base64_data": "aGk=", "mime_type": "image/png"},
            {"type": "text", "data": "this?"}]},
        {"role": "assistant", "content": "", "opaque_body": {"a": 1}, "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "content": "tide", "tool_call_id": "c"},
    ]);
    let tools = json!([{"name": "f", "description": "d", "parameters": {"type": "object"}}]);
    let llm = |parameters: Value| {
        json!({
            "prompt_messages": said, "model_parameters": parameters, "stop": ["\n"], "tools": tools,
        })
    };
    let plain = json!({
        "prompt_messages": [{"role": "user", "content": "hi"}], "model_parameters": {},
        "stop": null, "tools": null, "stream": false, "json_schema": null,
    });
    let docs = serde_json::to_value(documents()).unwrap();
    let ranks = json!({"query": "q", "docs": ["a", "b"], "score_threshold": 0.5, "top_n": 1});
    let multimodal =
        json!({"query": docs[0], "docs": docs, "score_threshold": null, "top_n": null});
    let speak = json!({"content_text": "hello", "voice": "ann", "tenant_id": "t"});
    let wrong = json!({"credentials": {"key": "wrong"}});
    let mut fails = ask("llm", "invoke_llm", plain.clone());
    fails["model"] = "fails".into();
    let mut wav = ask("tts", "invoke_tts", speak.clone());
    wav["model"] = "wav".into();
    vec![
        ask("llm", "validate_provider_credentials", json!({})),
        ask("llm", "validate_provider_credentials", wrong.clone()),
        ask("llm", "validate_model_credentials", json!({})),
        ask("llm", "validate_model_credentials", wrong),
        ask("llm", "invoke_llm", llm(json!({"temperature": 0.5}))),
        ask("llm", "invoke_llm", plain.clone()),
        fails,
        ask("llm", "start_polling", plain.clone()),
        ask("llm", "check_polling", json!({"plugin_state": {"id": 7}})),
        ask("llm", "get_llm_num_tokens", json!({"prompt_messages": said, "tools": tools})),
        ask("llm", "get_llm_num_tokens", json!({"prompt_messages": said, "tools": null})),
        ask(
            "text-embedding",
            "invoke_text_embedding",
            json!({"texts": ["a", "boat"], "input_type": "document"}),
        ),
        ask(
            "text-embedding",
            "invoke_multimodal_embedding",
            json!({"documents": docs, "input_type": "query"}),
        ),
        ask("text-embedding", "get_text_embedding_num_tokens", json!({"texts": ["a", "boat"]})),
        ask("rerank", "invoke_rerank", ranks),
        ask("rerank", "invoke_multimodal_rerank", multimodal),
        ask("tts", "invoke_tts", speak),
        wav,
        ask("tts", "get_tts_model_voices", json!({"language": "en"})),
        ask("tts", "get_tts_model_voices", json!({"language": null})),
        ask("speech2text", "invoke_speech2text", json!({"file": "00ff"})),
        ask("moderation", "invoke_moderation", json!({"text": "a bad word"})),
        ask("llm", "get_ai_model_schemas", json!({})),
    ]
}

fn of_datasources() -> Vec<Value> {
    let ask = |action: &str, fields: Value| {
        let mut all = json!({
            "type": "datasource", "action": action, "user_id": "u", "provider": "p",
            "datasource": "d", "credentials": {"key": "right"},
        });
        all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        all
    };
    let parameters = json!({"datasource_parameters": {"url": "https://x"}});
    vec![
        ask("validate_datasource_credentials", json!({})),
        ask("validate_datasource_credentials", json!({"credentials": {}})),
        ask("invoke_website_datasource_get_crawl", parameters.clone()),
        ask("invoke_online_document_datasource_get_pages", parameters),
        ask(
            "invoke_online_document_datasource_get_page_content",
            json!({"page": {"workspace_id": "w", "page_id": "p1", "type": "page"}}),
        ),
        ask(
            "invoke_online_drive_browse_files",
            json!({"request": {"bucket": "b", "prefix": "a/", "max_keys": 5}}),
        ),
        ask("invoke_online_drive_browse_files", json!({"request": {"prefix": null}})),
        ask("invoke_online_drive_download_file", json!({"request": {"bucket": null, "id": "f1"}})),
    ]
}

fn of_triggers() -> Vec<Value> {
    let ask = |action: &str, fields: Value| {
        let mut all = json!({
            "type": "trigger", "action": action, "user_id": "u", "provider": "p",
            "credentials": {"key": "right"}, "credential_type": "api-key",
        });
        all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        all
    };
    let subscription = json!({
        "expires_at": 3, "endpoint": "https://x/1", "parameters": null, "properties": {"id": "s"},
    });
    let http = hex_of(
        "POST /in?a=1 HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         Content-Length: 15\r\n\r\n{\"boat\":\"tide\"}",
    );
    let event = |parameters: Value| {
        json!({
            "event": "arrived", "subscription": subscription, "raw_http_request": http,
            "parameters": parameters, "payload": {"boat": "tide"},
        })
    };
    let made = json!({"endpoint": "https://x/1", "parameters": {"a": 1}});
    let kept = json!({"subscription": subscription});
    vec![
        ask("validate_trigger_credentials", json!({})),
        ask("validate_trigger_credentials", json!({"credentials": {}})),
        ask(
            "dispatch_trigger_event",
            json!({"subscription": subscription, "raw_http_request": http}),
        ),
        ask("invoke_trigger_event", event(json!({}))),
        ask("invoke_trigger_event", event(json!({"ignore": true}))),
        ask("subscribe_trigger", made),
        ask("unsubscribe_trigger", kept.clone()),
        ask("refresh_trigger", kept),
        json!({
            "type": "dynamic_parameter", "action": "fetch_parameter_options", "user_id": "u",
            "provider": "p", "provider_action": "provider", "parameter": "boat",
            "credentials": {}, "credential_type": "api-key",
        }),
        json!({
            "type": "oauth", "action": "get_authorization_url", "user_id": "u", "provider": "p",
            "redirect_uri": "r", "system_credentials": {"id": "i"},
        }),
        json!({
            "type": "oauth", "action": "get_credentials", "user_id": "u", "provider": "p",
            "redirect_uri": "r", "system_credentials": {"id": "i"},
            "raw_http_request": hex_of("GET /back?code=c%2B1 HTTP/1.1\r\nHost: x\r\n\r\n"),
        }),
        json!({
            "type": "oauth", "action": "refresh_credentials", "user_id": "u", "provider": "p",
            "redirect_uri": "r", "system_credentials": {"id": "i"}, "credentials": {"token": "t"},
        }),
    ]
}

/// What is said to a request, as the SDK's session messages.
fn says(hosted: &HostedPlugin, request: &Value) -> Vec<Value> {
    let text = |key: &str| request[key].as_str().unwrap();
    let pieces = hosted.request(text("type"), text("action"), request).unwrap();
    let pieces = pieces.map(|piece| match piece {
        Ok(piece) => json!({"type": "stream", "data": piece.value().unwrap()}),
        Err(error) => {
            let error = error.remote().unwrap_or_else(|| panic!("{error}: {request}")).clone();
            let data = error.data.unwrap().value().unwrap();
            json!({"type": "error", "data":
                {"error_type": data["error_type"], "message": error.message}})
        }
    });
    pieces.map(comparable).collect()
}

/// What differs between a response in hexadecimal of theirs and ours: the case of names, which has no
/// meaning in HTTP, and the order of headers.
fn open_http(said: &mut Value) {
    if let Some(hex) = said.pointer("/data/response").and_then(Value::as_str) {
        let bytes = HEXLOWER.decode(hex.as_bytes()).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let mut lines: Vec<_> = head.lines().map(str::to_lowercase).collect();
        lines[1..].sort();
        said["data"]["response"] = json!([lines, body]);
    }
}

#[test]
fn what_providers_answer_is_what_the_sdk_answers_field_by_field() {
    promptly("all is compared", || {
        let mut sdk = Sdk::new();
        let daemon = Daemon::new("a key");
        let models = ModelProvider::new("p").predefined("m", "llm");
        let strategy = StrategyProvider::new("p").strategy(Strategy::new("drift"));
        let shelf = DatasourceProvider::new("p", DatasourceKind::OnlineDocument)
            .datasource(Datasource::new("d"));
        let bell = TriggerProvider::new("p").event(Event::new("arrived"));
        let agent = json!({
            "type": "agent_strategy", "action": "invoke_agent_strategy", "user_id": "u",
            "agent_strategy_provider": "p", "agent_strategy": "drift",
            "agent_strategy_params": {"query": "q"},
        });
        let acts: Vec<(Plugin, Vec<Value>)> = vec![
            (Plugin::new(manifest()).models(models, Models), of_models()),
            (Plugin::new(manifest()).datasource(shelf, Shelf), of_datasources()),
            (
                Plugin::new(manifest())
                    .trigger(bell, Bell)
                    .oauth("p", Login)
                    .dynamic_options("p", |parameter, _| {
                        Ok(vec![SelectOption::new("t1", parameter)])
                    }),
                of_triggers(),
            ),
            (
                Plugin::new(manifest()).agent_strategies(strategy, |name, request| {
                    let query: String = request.parameter("query")?;
                    request.send(ToolMessage::text(format!("{name}: {query}")))?;
                    let step = LogStep::new("think").data(json!({"a": 1}));
                    Ok(request.send(step.finished(json!({"b": 2})))?)
                }),
                vec![agent],
            ),
        ];
        let mut differ = Vec::new();
        for (plugin, requests) in acts {
            let (hosted, _running) = meet(&daemon, plugin);
            for request in requests {
                let mut ours = says(&hosted, &request);
                let Value::Array(theirs) = sdk.ask(&json!({"action": request})) else { panic!() };
                let mut theirs: Vec<_> = theirs.into_iter().map(comparable).collect();
                ours.iter_mut().chain(&mut theirs).for_each(open_http);
                if ours != theirs {
                    differ.push(format!(
                        "{}\n  ours:   {}\n  theirs: {}",
                        request["action"],
                        json!(ours),
                        json!(theirs)
                    ));
                }
            }
        }
        assert!(differ.is_empty(), "{}", differ.join("\n"));
    });
}

// ---- declarations ------------------------------------------------------------------------------------

fn verdict(kind: &str, declaration: Value) -> Option<String> {
    let plugin = match kind {
        "manifest" => Plugin::new(declaration).endpoint("GET", "/a", |_| Ok(())),
        _ => {
            let kinds = ["tool", "endpoint", "model", "agent_strategy", "datasource", "trigger"];
            let kind = kinds.into_iter().find(|known| *known == kind).unwrap_or("tool");
            Plugin::new(manifest()).declare(kind, declaration)
        }
    };
    plugin.check().err().map(|error| error.to_string())
}

/// What the SDK sends, and the daemon refuses, each with a case of its own in the tests of declarations:
/// methods, URLs, versions, times, types and names that it does not know, icons that were not sent, defaults that are
/// lists, and scopes where there are none. An empty text is refused wherever one is needed.
const ONLY_THE_DAEMON: [&str; 12] = [
    "plugins.",
    "created_at = ",
    "type = \"object\"",
    "method = ",
    "repo = ",
    "version = ",
    "identity.name = ",
    "author = ",
    "name = ",
    "icon = ",
    "default = ",
    "scope = ",
];

#[test]
fn a_declaration_that_the_sdk_would_send_is_taken_unless_the_daemon_refuses_it() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let python = venv::python_312(&tests.join("dify_plugin/requirements.txt"));
    let seed = std::env::var("SESSILE_SOAK_SEED").unwrap_or("7".to_owned());
    let said = Command::new(python)
        .arg(tests.join("dify_wire/declares.py"))
        .args([&seed, "400"])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let (mut both, mut differ) = ((0, 0), Vec::new());
    for line in String::from_utf8(said.stdout).unwrap().lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let (kind, what) = (case["kind"].as_str().unwrap(), case["what"].as_str().unwrap());
        let is_known =
            what.ends_with(" = \"\"") || ONLY_THE_DAEMON.iter().any(|at| what.contains(at));
        match case.get("sent") {
            Some(sent) => match verdict(kind, sent.clone()) {
                None => both.0 += 1,
                Some(_) if is_known => {}
                Some(error) => differ.push(format!("{kind} {what}: {error}")),
            },
            // What the SDK refuses does not reach the daemon, which may be more lenient.
            None => both.1 += usize::from(verdict(kind, case["raw"].clone()).is_some()),
        }
    }
    assert!(differ.is_empty(), "seed {seed}, {} differ: {}", differ.len(), differ.join("\n"));
    assert!(both.0 > 50 && both.1 > 50, "seed {seed}: {both:?}");
}
