//! A frame to JSON-RPC messages.
#![no_main]
libfuzzer_sys::fuzz_target!(|frame: &[u8]| sessile::fuzz::json_rpc(frame));
