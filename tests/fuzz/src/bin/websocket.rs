//! Bytes, cut anywhere, to WebSocket messages, and to those of JSON-RPC in them.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| sessile::fuzz::websocket(input));
