//! Bytes, cut anywhere, to the heads of HTTP that open a WebSocket; text to a URL.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| sessile::fuzz::heads(input));
