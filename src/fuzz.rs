//! What the fuzz targets drive: decoders, given whatever a peer may send.
//!
//! That they do not panic is the least. What they let through must be sound: payloads that are JSON,
//! and requests that can be answered.

use crate::session::{Incoming, JsonRpc, Outgoing, Payload, Protocol, RemoteError};

fn is_sound(protocol: &impl Protocol, frame: &[u8]) {
    let mut messages = Vec::new();
    // What came before an error counts.
    if let Err(error) = protocol.decode(frame, &mut messages) {
        assert!(error.to_string().len() < 200, "an error quotes what came");
    }
    let is_json = |payload: &Payload| {
        serde_json::from_str::<serde::de::IgnoredAny>(payload.as_str()).expect("a payload is JSON");
    };
    for message in &messages {
        match message {
            Incoming::Request { id, params, meta, .. } => {
                [params, meta].into_iter().flatten().for_each(is_json);
                let value = &Payload::null();
                let error = &RemoteError::new("no").with_code(-1);
                for said in
                    [Outgoing::Answer { to: id, value }, Outgoing::Failure { to: id, error }]
                {
                    let mut frame = Vec::new();
                    protocol.encode(&said, &mut frame).expect("a request can be answered");
                    serde_json::from_slice::<serde::de::IgnoredAny>(&frame)
                        .expect("a frame is JSON");
                    assert!(!frame.contains(&b'\n'), "a frame is one line");
                }
            }
            Incoming::Notification { params, .. } => params.iter().for_each(is_json),
            Incoming::Item { value, .. } | Incoming::Answer { value, .. } => is_json(value),
            Incoming::Failure { error, .. } => error.data.iter().for_each(is_json),
            Incoming::Cancel { .. } | Incoming::End { .. } | Incoming::Heartbeat => {}
        }
    }
}

/// A frame to JSON-RPC messages.
pub fn json_rpc(frame: &[u8]) {
    is_sound(&JsonRpc::new(), frame);
    is_sound(&JsonRpc::new().partial_results(), frame);
}

/// A line to messages of Dify's plugin protocol, on either side.
#[cfg(all(feature = "dify", unix))]
pub fn dify(line: &[u8]) {
    use crate::session::dify::wire::{DaemonSide, PluginSide};
    is_sound(&PluginSide::numbered(), line);
    is_sound(&DaemonSide::numbered(), line);
}
