//! Any bytes as the body of extension headers (PAX, global PAX, GNU long name and link) before a file.
#![no_main]

use groot_fuzz::{Choices, push, read_both_ways};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices(data);
    let mut archive = Vec::new();
    let count = choices.byte() % 3;
    for _ in 0..count {
        let flag = choices.of(b"xxgLK");
        let body = choices.bytes(255);
        push(&mut archive, b"ext", flag, body, b"", 0o644, 0);
    }
    let flag = choices.of(b"xxxgLK");
    push(&mut archive, b"ext", flag, choices.0, b"", 0o644, 0);
    // A PAX size may take more or less than this as content; what follows then has to be refused or read, never more.
    push(&mut archive, b"f", b'0', &[b'c'; 700], b"t", 0o644, 0);
    push(&mut archive, b"g", b'0', b"content", b"", 0o644, 0);
    archive.resize(archive.len() + 1024, 0);
    let _ = read_both_ways(&archive, 13);
});
