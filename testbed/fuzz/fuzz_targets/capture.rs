#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| faultwire_fuzz::run("capture", bytes));
