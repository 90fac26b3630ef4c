//! What the tests of Dify's protocol share.

#![allow(dead_code, unreachable_pub)] // each test binary uses its own part of it

use data_encoding::HEXLOWER;
use serde_json::{Value, json};

/// The fields of a request that asks an endpoint for this target.
pub fn endpoint(target: &str) -> Value {
    let http = format!("GET {target} HTTP/1.1\r\nhost: x\r\n\r\n");
    json!({"settings": {}, "raw_http_request": HEXLOWER.encode(http.as_bytes())})
}
