//! Bytes, cut anywhere, to frames after their length.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| sessile::fuzz::content_length(input));
