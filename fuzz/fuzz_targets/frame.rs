#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| evermux::fuzzing::frame(data));
