//! The plugin protocol's frames, from either side of the line.
//!
//! The observed format: a plugin says `{"event", "session_id", "data"}`, the daemon
//! `{"session_id", .., "event", "data"}`. What a plugin is asked is a *session*; what it asks back on
//! behalf of one is an *invocation*. Neither side tells the other that nobody waits any more.

use std::borrow::Cow;
use std::fmt::Write;
use std::hash::{BuildHasher, RandomState};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::session::json_rpc::syntax;
use crate::session::{
    Concern, Incoming, Malformed, Outgoing, Payload, Protocol, RemoteError, RequestId, Unsupported,
};

/// Ids of our own, in the form of random UUIDs: a number in the lower half, chance in the upper.
///
/// The number makes them unique on the connection and is what answers are routed by; chance keeps them
/// apart from those of other processes, and an id that was not given out here is told at once.
#[derive(Clone, Copy, Debug)]
struct Ids {
    upper: u64,
}

/// Version 4 in the upper half, the variant in the lower.
const VERSION: u64 = 0x4000;
const VARIANT: u64 = 1 << 63;

impl Ids {
    /// Not by chance, so that a fuzzer can find ids that are ours.
    #[cfg(fuzzing)]
    fn numbered() -> Self {
        Self { upper: VERSION }
    }

    fn new() -> Self {
        let chance = RandomState::new().hash_one(std::process::id());
        Self { upper: chance & !0xF000 | VERSION }
    }

    /// 32 digits.
    fn plain(self, id: u64) -> String {
        format!("{:016x}{:016x}", self.upper, id | VARIANT)
    }

    /// With hyphens.
    fn hyphenated(self, id: u64) -> String {
        let digits = self.plain(id);
        let part = |from: usize, to: usize| &digits[from..to];
        [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")
    }

    /// The number in an id of ours, in either form.
    fn number(self, id: &str) -> Option<u64> {
        let mut value: u128 = 0;
        let mut digits = 0;
        for byte in id.bytes().filter(|byte| *byte != b'-') {
            value = value << 4 | u128::from((byte as char).to_digit(16)?);
            digits += 1;
        }
        let (upper, lower) = ((value >> 64) as u64, value as u64);
        let ours = digits == 32 && upper == self.upper && lower & VARIANT != 0;
        ours.then_some(lower & !VARIANT)
    }
}

/// What a plugin says and hears.
#[derive(Clone, Debug)]
pub(crate) struct PluginSide {
    ids: Ids,
}

/// What a daemon says and hears.
#[derive(Clone, Debug)]
pub(crate) struct DaemonSide {
    ids: Ids,
}

fn malformed(error: serde_json::Error) -> Malformed {
    Malformed::new(syntax(&error))
}

fn write_json(frame: &mut Vec<u8>, value: &impl Serialize) {
    serde_json::to_writer(frame, value).expect("writing JSON to memory");
}

/// `{"type": .., "data": ..}`, as in sessions, invocations and declarations.
#[derive(Serialize, Deserialize)]
struct Typed<'a, D> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    data: D,
}

#[derive(Serialize, Deserialize)]
struct Invoke<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    backwards_request_id: Cow<'a, str>,
    #[serde(borrow)]
    request: &'a RawValue,
}

#[derive(Serialize, Deserialize)]
struct Failed<'a> {
    #[serde(borrow)]
    error_type: Cow<'a, str>,
    #[serde(borrow)]
    message: Cow<'a, str>,
    #[serde(borrow, default)]
    args: Option<&'a RawValue>,
}

#[derive(Serialize, Deserialize)]
struct Response<'a> {
    #[serde(borrow)]
    backwards_request_id: Cow<'a, str>,
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(borrow)]
    message: Cow<'a, str>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Serialize, Deserialize)]
struct FromPlugin<'a> {
    #[serde(borrow, default)]
    event: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    session_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "type", skip_serializing)]
    kind: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct FromDaemon<'a> {
    #[serde(borrow)]
    session_id: Cow<'a, str>,
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(borrow, flatten)]
    context: RequestContext<'a>,
}

/// What the outline of a message tells of whom it concerns.
#[derive(Deserialize)]
struct Told<'a> {
    #[serde(borrow)]
    session_id: Cow<'a, str>,
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(borrow)]
    data: Option<ToldOf<'a>>,
}

#[derive(Deserialize)]
struct ToldOf<'a> {
    #[serde(borrow)]
    backwards_request_id: Option<Cow<'a, str>>,
}

/// What else the daemon tells with a request.
#[derive(Serialize, Deserialize)]
struct RequestContext<'a> {
    #[serde(borrow, default)]
    conversation_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    message_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    app_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    endpoint_id: Option<Cow<'a, str>>,
    #[serde(default)]
    context: Option<serde_json::Map<String, serde_json::Value>>,
}

fn empty() -> Box<RawValue> {
    RawValue::from_string("{}".to_owned()).expect("JSON")
}

impl PluginSide {
    pub(super) fn new() -> Self {
        Self { ids: Ids::new() }
    }

    #[cfg(fuzzing)]
    pub(crate) fn numbered() -> Self {
        Self { ids: Ids::numbered() }
    }

    fn session<D: Serialize>(frame: &mut Vec<u8>, session: &RequestId, kind: &str, data: D) {
        #[derive(Serialize)]
        struct Sent<'a, D> {
            event: &'static str,
            session_id: &'a str,
            data: Typed<'a, D>,
        }
        let data = Typed { kind: kind.into(), data };
        write_json(frame, &Sent { event: "session", session_id: session.as_str(), data });
    }
}

/// A line for the daemon's log.
pub(super) const LOG: &str = "log";

/// A daemon that refuses a plugin says so in plain words.
pub(super) const REFUSAL: &str = "refusal";

impl Protocol for PluginSide {
    fn encode(&self, message: &Outgoing<'_>, frame: &mut Vec<u8>) -> Result<(), Unsupported> {
        match *message {
            Outgoing::Request { id, within: Some(session), method, params } => {
                let nothing = empty();
                let invoke = Invoke {
                    kind: method.into(),
                    backwards_request_id: self.ids.plain(id).into(),
                    request: params.map_or(&*nothing, Payload::raw),
                };
                Self::session(frame, session, "invoke", invoke);
            }
            Outgoing::Request { within: None, .. } => {
                return Err(Unsupported::new("a plugin invokes on behalf of a request only"));
            }
            Outgoing::Item { to, value } | Outgoing::Answer { to, value } => {
                Self::session(frame, to, "stream", value);
            }
            Outgoing::Failure { to, error } => {
                let data = error.data.as_ref().map(Payload::as_str).unwrap_or("{}");
                // What the handler's error carries, if it is of the peer's shape.
                #[derive(Default, Deserialize)]
                struct Particulars<'a> {
                    #[serde(borrow)]
                    error_type: Option<Cow<'a, str>>,
                    #[serde(borrow)]
                    args: Option<&'a RawValue>,
                }
                let said: Particulars<'_> = serde_json::from_str(data).unwrap_or_default();
                let nothing = empty();
                let failed = Failed {
                    error_type: said.error_type.unwrap_or("Error".into()),
                    message: error.message.as_str().into(),
                    args: Some(said.args.unwrap_or(&nothing)),
                };
                Self::session(frame, to, "error", failed);
            }
            Outgoing::End { to } => Self::session(frame, to, "end", empty()),
            Outgoing::Notification { method: LOG, params: Some(line) } => {
                #[derive(Serialize)]
                struct Logged<'a> {
                    event: &'static str,
                    data: &'a Payload,
                }
                write_json(frame, &Logged { event: LOG, data: line });
            }
            Outgoing::Notification { .. } => {
                return Err(Unsupported::new("a plugin has nothing else to tell unasked"));
            }
            Outgoing::Cancel { .. } => {
                return Err(Unsupported::new("an invocation cannot be called off"));
            }
            Outgoing::Progress { .. } => {
                return Err(Unsupported::new("an invocation tells of no progress"));
            }
        }
        Ok(())
    }

    fn decode(&self, frame: &[u8], messages: &mut Vec<Incoming>) -> Result<(), Malformed> {
        if !frame.trim_ascii_start().starts_with(b"{") {
            let text = String::from_utf8_lossy(&frame[..frame.len().min(200)]);
            let params = Some(serde_json::Value::from(text).into());
            messages.push(Incoming::Notification {
                method: REFUSAL.to_owned(),
                params,
                meta: None,
            });
            return Ok(());
        }
        let said: FromDaemon<'_> = serde_json::from_slice(frame).map_err(malformed)?;
        messages.push(match &*said.event {
            "request" => {
                #[derive(Deserialize)]
                struct What<'a> {
                    #[serde(borrow, rename = "type")]
                    kind: Cow<'a, str>,
                    #[serde(borrow)]
                    action: Cow<'a, str>,
                }
                let what: What<'_> = serde_json::from_str(said.data.get()).map_err(malformed)?;
                Incoming::Request {
                    id: RequestId::new(&said.session_id),
                    within: None,
                    method: format!("{}.{}", what.kind, what.action),
                    params: Some(said.data.into()),
                    meta: Some(Payload::new(&said.context).map_err(malformed)?),
                }
            }
            "backwards_response" => {
                let said: Response<'_> =
                    serde_json::from_str(said.data.get()).map_err(malformed)?;
                let id = self.ids.number(&said.backwards_request_id);
                let id =
                    id.ok_or_else(|| Malformed::new("an answer to none of our invocations"))?;
                match (&*said.event, said.data) {
                    ("response", Some(data)) => Incoming::Item { id, value: data.into() },
                    ("error", _) => Incoming::Failure {
                        id: Some(id),
                        error: RemoteError::new(said.message.into_owned()),
                    },
                    // A response of nothing ends an invocation too.
                    ("end" | "response", _) => Incoming::End { id },
                    _ => return Err(Malformed::new("an answer of an unknown kind")),
                }
            }
            _ => return Err(Malformed::new("an unknown event")),
        });
        Ok(())
    }

    fn concerns(&self, outline: &[u8]) -> Option<Concern> {
        let told: Told<'_> = serde_json::from_slice(outline).ok()?;
        match &*told.event {
            "request" => Some(Concern::Request(RequestId::new(&told.session_id))),
            "backwards_response" => {
                let id = told.data?.backwards_request_id?;
                self.ids.number(&id).map(Concern::Answer)
            }
            _ => None,
        }
    }

    fn ends_apart(&self) -> bool {
        true
    }
}

/// How the daemon calls an invocation: by the session and the id within, for it has to say both.
/// Session ids are its own and have no such sign in them.
const JOINT: char = '/';

impl DaemonSide {
    pub(super) fn new() -> Self {
        Self { ids: Ids::new() }
    }

    #[cfg(fuzzing)]
    pub(crate) fn numbered() -> Self {
        Self { ids: Ids::numbered() }
    }

    fn response(
        frame: &mut Vec<u8>,
        to: &RequestId,
        event: &str,
        message: &str,
        data: Option<&RawValue>,
    ) {
        #[derive(Serialize)]
        struct Sent<'a> {
            session_id: &'a str,
            conversation_id: (),
            message_id: (),
            app_id: (),
            endpoint_id: (),
            context: (),
            event: &'static str,
            data: Response<'a>,
        }
        let (session, id) = to.as_str().split_once(JOINT).unwrap_or((to.as_str(), ""));
        let data = Response {
            backwards_request_id: id.into(),
            event: event.into(),
            message: message.into(),
            data,
        };
        let sent = Sent {
            session_id: session,
            conversation_id: (),
            message_id: (),
            app_id: (),
            endpoint_id: (),
            context: (),
            event: "backwards_response",
            data,
        };
        write_json(frame, &sent);
    }

    fn read_session(&self, id: u64, session: &str, data: &str) -> Result<Incoming, Malformed> {
        let said: Typed<'_, &RawValue> = serde_json::from_str(data).map_err(malformed)?;
        Ok(match &*said.kind {
            "stream" => Incoming::Item { id, value: said.data.into() },
            "end" => Incoming::End { id },
            "error" => {
                let failed: Failed<'_> =
                    serde_json::from_str(said.data.get()).map_err(malformed)?;
                let data = Payload::new(&failed).map_err(malformed)?;
                let error = RemoteError::new(failed.message.into_owned());
                Incoming::Failure { id: Some(id), error: error.with_data(data) }
            }
            "invoke" => {
                let invoke: Invoke<'_> =
                    serde_json::from_str(said.data.get()).map_err(malformed)?;
                let mut to = session.to_owned();
                let _ = write!(to, "{JOINT}{}", invoke.backwards_request_id);
                Incoming::Request {
                    id: RequestId::new(&to),
                    within: Some(id),
                    method: invoke.kind.into_owned(),
                    params: Some(invoke.request.into()),
                    meta: None,
                }
            }
            _ => return Err(Malformed::new("a session message of an unknown kind")),
        })
    }
}

/// Before its first heartbeat a plugin declares itself: this comes before the kind of declaration.
pub(super) const DECLARES: &str = "declare.";

impl Protocol for DaemonSide {
    /// A request's parameters are the envelope but for its session and event:
    /// `{"data": {"type", "action", ..}, ..}`.
    fn encode(&self, message: &Outgoing<'_>, frame: &mut Vec<u8>) -> Result<(), Unsupported> {
        match *message {
            Outgoing::Request { id, params: Some(params), .. } => {
                let rest = params.as_str().trim_start().strip_prefix('{');
                let rest = rest.ok_or(Unsupported::new("a request is an object"))?;
                let session = self.ids.hyphenated(id);
                let head = format!(r#"{{"session_id":"{session}","event":"request","#);
                frame.extend_from_slice(head.as_bytes());
                frame.extend_from_slice(rest.as_bytes());
            }
            Outgoing::Request { params: None, .. } => {
                return Err(Unsupported::new("a request of nothing"));
            }
            Outgoing::Item { to, value } | Outgoing::Answer { to, value } => {
                Self::response(frame, to, "response", "stream", Some(value.raw()));
            }
            Outgoing::Failure { to, error } => {
                Self::response(frame, to, "error", &error.message, None);
            }
            Outgoing::End { to } => Self::response(frame, to, "end", "", None),
            Outgoing::Notification { .. } => {
                return Err(Unsupported::new("a daemon has nothing to tell unasked"));
            }
            Outgoing::Cancel { .. } => {
                return Err(Unsupported::new("a request cannot be called off"));
            }
            Outgoing::Progress { .. } => {
                return Err(Unsupported::new("a request tells of no progress"));
            }
        }
        Ok(())
    }

    fn decode(&self, frame: &[u8], messages: &mut Vec<Incoming>) -> Result<(), Malformed> {
        let said: FromPlugin<'_> = serde_json::from_slice(frame).map_err(malformed)?;
        let tell = |method: String, params: Option<&RawValue>| Incoming::Notification {
            method,
            params: params.map(Payload::from),
            meta: None,
        };
        messages.push(match (said.event.as_deref(), said.data, said.kind) {
            (Some("heartbeat"), ..) => Incoming::Heartbeat,
            (Some("session"), Some(data), _) => {
                let session = said.session_id.unwrap_or_default();
                let id = self.ids.number(&session);
                let id = id.ok_or_else(|| Malformed::new("a message of none of our sessions"))?;
                self.read_session(id, &session, data.get())?
            }
            (Some(event @ ("log" | "error")), data, _) => tell(event.to_owned(), data),
            (None, Some(data), Some(kind)) => tell(format!("{DECLARES}{kind}"), Some(data)),
            // On its standard output a plugin begins with its manifest, bare.
            (None, None, Some(_)) => {
                let manifest: &RawValue = serde_json::from_slice(frame).map_err(malformed)?;
                tell(format!("{DECLARES}manifest"), Some(manifest))
            }
            _ => return Err(Malformed::new("an unknown event")),
        });
        Ok(())
    }

    /// Whatever it was, the session that said so cannot go on without it.
    fn concerns(&self, outline: &[u8]) -> Option<Concern> {
        let told: Told<'_> = serde_json::from_slice(outline).ok()?;
        let id = self.ids.number(&told.session_id).filter(|_| told.event == "session");
        id.map(Concern::Answer)
    }

    fn ends_apart(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn encode(protocol: &impl Protocol, message: Outgoing<'_>) -> String {
        let mut frame = Vec::new();
        protocol.encode(&message, &mut frame).unwrap();
        String::from_utf8(frame).unwrap()
    }

    fn decode(protocol: &impl Protocol, frame: &str) -> Result<Incoming, Malformed> {
        let mut messages = Vec::new();
        protocol.decode(frame.as_bytes(), &mut messages)?;
        Ok(messages.pop().expect("a message"))
    }

    #[test]
    fn an_id_is_a_random_uuid_and_is_found_again() {
        let (ids, others) = (Ids::new(), Ids::new());
        for id in [0, 1, u64::from(u32::MAX), (1 << 62) - 1] {
            let plain = ids.plain(id);
            assert_eq!((plain.len(), &plain[12..13]), (32, "4"));
            assert!(matches!(&plain[16..17], "8" | "9" | "a" | "b"), "{plain}");
            assert_eq!(ids.number(&plain), Some(id));
            let hyphenated = ids.hyphenated(id);
            assert_eq!(hyphenated.replace('-', ""), plain);
            assert_eq!(ids.number(&hyphenated), Some(id));
            assert_eq!(others.number(&plain), None);
        }
        let nothing = ["", "-", "zz", "0", &"f".repeat(33)];
        assert!(nothing.iter().all(|id| ids.number(id).is_none()));
    }

    #[test]
    fn a_conversation_reads_the_same_on_both_sides() {
        let (plugin, daemon) = (PluginSide::new(), DaemonSide::new());

        let params = json!({"conversation_id": "c", "data": {"type": "tool", "action": "invoke_tool", "tool": "t"}});
        let asked = Outgoing::Request {
            id: 7,
            within: None,
            method: "tool.invoke_tool",
            params: Some(&params.into()),
        };
        let heard = decode(&plugin, &encode(&daemon, asked)).unwrap();
        let Incoming::Request { id: session, method, params, meta, .. } = heard else {
            panic!("{heard:?}")
        };
        assert_eq!(method, "tool.invoke_tool");
        assert_eq!(params.unwrap().value().unwrap()["tool"], "t");
        assert_eq!(meta.unwrap().value().unwrap()["conversation_id"], "c");

        let request = json!({"opt": "get", "key": "k"}).into();
        let invoke = Outgoing::Request {
            id: 3,
            within: Some(&session),
            method: "storage",
            params: Some(&request),
        };
        let heard = decode(&daemon, &encode(&plugin, invoke)).unwrap();
        let Incoming::Request { id: to, within: Some(7), method, params, .. } = heard else {
            panic!("{heard:?}")
        };
        assert_eq!((&*method, params.unwrap().as_str()), ("storage", request.as_str()));

        let value = &Payload::from(json!({"data": "ff"}));
        let heard = decode(&plugin, &encode(&daemon, Outgoing::Item { to: &to, value })).unwrap();
        assert!(
            matches!(&heard, Incoming::Item { id: 3, value: v } if v.as_str() == value.as_str())
        );
        let error = &RemoteError::new("no");
        let heard =
            decode(&plugin, &encode(&daemon, Outgoing::Failure { to: &to, error })).unwrap();
        assert!(
            matches!(&heard, Incoming::Failure { id: Some(3), error } if error.message == "no")
        );
        let heard = decode(&plugin, &encode(&daemon, Outgoing::End { to: &to })).unwrap();
        assert!(matches!(heard, Incoming::End { id: 3 }));

        let to = &session;
        let heard = decode(&daemon, &encode(&plugin, Outgoing::Item { to, value })).unwrap();
        assert!(matches!(heard, Incoming::Item { id: 7, .. }));
        let error = &RemoteError::new("no").with_data(json!({"error_type": "E", "args": {"a": 1}}));
        let said = encode(&plugin, Outgoing::Failure { to, error });
        let value: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(
            value["data"]["data"],
            json!({"error_type": "E", "message": "no", "args": {"a": 1}})
        );
        assert!(matches!(decode(&daemon, &said), Ok(Incoming::Failure { id: Some(7), .. })));
        let said = encode(&plugin, Outgoing::End { to });
        assert!(matches!(decode(&daemon, &said), Ok(Incoming::End { id: 7 })));
    }

    #[test]
    fn the_sdks_own_lines_are_understood() {
        let daemon = DaemonSide::new();
        let heard = decode(&daemon, r#"{"event":"heartbeat","session_id":null,"data":{}}"#);
        assert!(matches!(heard, Ok(Incoming::Heartbeat)));
        for (line, method) in [
            (r#"{"type":"handshake","data":{"key":"k"}}"#, "declare.handshake"),
            (r#"{"type":"tool_declaration","data":[{}]}"#, "declare.tool_declaration"),
            (r#"{"type":"end","data":{}}"#, "declare.end"),
            (r#"{"version":"0.0.1","type":"plugin","author":"a"}"#, "declare.manifest"),
            (
                r#"{"event": "log", "data": {"level": "INFO", "message": "m", "timestamp": 1.5}}"#,
                "log",
            ),
            (r#"{"event":"error","session_id":null,"data":{"error":"e"}}"#, "error"),
        ] {
            let heard = decode(&daemon, line).unwrap();
            let Incoming::Notification { method: heard, .. } = heard else { panic!("{heard:?}") };
            assert_eq!(heard, method);
        }
    }

    #[test]
    fn what_is_none_of_ours_is_an_error_that_quotes_nothing() {
        let (plugin, daemon) = (PluginSide::new(), DaemonSide::new());
        let stranger = "3387f208-ccc8-4e90-9ba4-8a8ea90d75d7";
        for line in [
            format!(
                r#"{{"event":"session","session_id":"{stranger}","data":{{"type":"end","data":{{}}}}}}"#
            ),
            r#"{"event":"session","session_id":null,"data":{"type":"end","data":{}}}"#.to_owned(),
            r#"{"event":"hunter2"}"#.to_owned(),
            "hunter2".to_owned(),
            "{}".to_owned(),
        ] {
            let error = decode(&daemon, &line).unwrap_err().to_string();
            assert!(!error.contains("hunter2") && !error.contains(stranger), "{error}");
        }
        for line in [
            r#"{"session_id":"s","event":"backwards_response","data":{"backwards_request_id":"hunter2","event":"end","message":"","data":null}}"#,
            r#"{"session_id":"s","event":"request","data":{"type":"hunter2"}}"#,
            r#"{"session_id":"s","event":"hunter2","data":{}}"#,
            r#"{"session_id":"s","event":"request"}"#,
        ] {
            let error = decode(&plugin, line).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_response_of_nothing_ends_an_invocation() {
        let plugin = PluginSide::new();
        let id = plugin.ids.plain(9);
        let line = format!(
            r#"{{"session_id":"s","event":"backwards_response","data":{{"backwards_request_id":"{id}","event":"response","message":"","data":null}}}}"#
        );
        assert!(matches!(decode(&plugin, &line), Ok(Incoming::End { id: 9 })));
    }
}
