//! Bytes, cut anywhere, to lines.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| sessile::fuzz::lines(input));
