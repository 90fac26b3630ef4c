//! What the tests of Dify's protocol share.

#![allow(dead_code, unreachable_pub)] // each test binary uses its own part of it

use std::path::PathBuf;
use std::process::Command;

use data_encoding::HEXLOWER;
use serde_json::{Value, json};

/// The fields of a request that asks an endpoint for this target.
pub fn endpoint(target: &str) -> Value {
    let http = format!("GET {target} HTTP/1.1\r\nhost: x\r\n\r\n");
    json!({"settings": {}, "raw_http_request": HEXLOWER.encode(http.as_bytes())})
}

/// The example plugin, built.
pub fn example() -> PathBuf {
    built("dify_plugin")
}

/// An example, built.
pub fn built(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let example = tests.parent().unwrap().parent().unwrap().join("examples").join(name);
    // `cargo test` has built it, but for a run of one test alone.
    if !example.exists() {
        let build = ["build", "--features", "dify", "--example", name];
        assert!(Command::new("cargo").args(build).status().unwrap().success());
    }
    example
}
