//! Any bytes as what the kernel gives back from the ioctls whose results are parsed.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| groot_btrfs::abi::fuzzing::parse_results(data));
