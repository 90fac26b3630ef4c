//! A WebSocket frame to a message of a Jupyter kernel's, in both forms, and that to what comes of a
//! cell.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| sessile::fuzz::jupyter(input));
