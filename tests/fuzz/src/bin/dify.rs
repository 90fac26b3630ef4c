//! A line to messages of Dify's plugin protocol, on either side.
#![no_main]
libfuzzer_sys::fuzz_target!(|frame: &[u8]| sessile::fuzz::dify(frame));
