//! Sparse files of all four formats with arbitrary maps.
#![no_main]

use groot_core::tar::BLOCK;
use groot_fuzz::{Choices, header, push, read_both_ways, record, seal};
use libfuzzer_sys::fuzz_target;

fn field(block: &mut [u8], at: usize, value: u64) {
    block[at..at + 12].copy_from_slice(&if value < 1 << 33 {
        format!("{value:011o}\0").into_bytes()
    } else {
        [vec![0x80, 0, 0, 0], value.to_be_bytes().to_vec()].concat()
    });
}

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices(data);
    let format = choices.byte() % 5;
    let size = choices.number();
    let stored = usize::from(choices.byte()) * 7;
    let regions: Vec<(u64, u64)> = (0..choices.byte() % 50).map(|_| (choices.number(), choices.number())).collect();
    let mut archive = Vec::new();
    let content = vec![b'c'; stored];
    match format {
        0 => {
            let mut block = header(b"s", b'S', stored as u64, b"", 0o644, 0).to_vec();
            field(&mut block, 483, size);
            let (first, rest) = regions.split_at(regions.len().min(4));
            for (i, &(offset, len)) in first.iter().enumerate() {
                field(&mut block, 386 + i * 24, offset);
                field(&mut block, 398 + i * 24, len);
            }
            block[482] = u8::from(!rest.is_empty());
            archive.extend_from_slice(&block);
            seal(&mut archive);
            for (i, chunk) in rest.chunks(21).enumerate() {
                let mut block = vec![0; BLOCK];
                for (slot, &(offset, len)) in chunk.iter().enumerate() {
                    field(&mut block, slot * 24, offset);
                    field(&mut block, slot * 24 + 12, len);
                }
                block[504] = u8::from((i + 1) * 21 < rest.len());
                archive.extend_from_slice(&block);
            }
            archive.extend_from_slice(&content);
            archive.resize(archive.len().next_multiple_of(BLOCK), 0);
        }
        1 | 2 => {
            let mut body = record(b"GNU.sparse.size", size.to_string().as_bytes());
            if choices.byte() & 1 == 0 {
                body.extend(record(b"GNU.sparse.numblocks", regions.len().to_string().as_bytes()));
            }
            if format == 1 {
                for (offset, len) in regions {
                    body.extend(record(b"GNU.sparse.offset", offset.to_string().as_bytes()));
                    body.extend(record(b"GNU.sparse.numbytes", len.to_string().as_bytes()));
                }
            } else {
                let numbers: Vec<String> = regions.iter().map(|(offset, len)| format!("{offset},{len}")).collect();
                body.extend(record(b"GNU.sparse.map", numbers.join(",").as_bytes()));
            }
            push(&mut archive, b"ext", b'x', &body, b"", 0o644, 0);
            push(&mut archive, b"s", b'0', &content, b"", 0o644, 0);
        }
        _ => {
            let body = [
                record(b"GNU.sparse.major", b"1"),
                record(b"GNU.sparse.minor", b"0"),
                record(b"GNU.sparse.realsize", size.to_string().as_bytes()),
            ];
            push(&mut archive, b"ext", b'x', &body.concat(), b"", 0o644, 0);
            let mut text = if format == 3 {
                let lines: String = regions.iter().map(|(offset, len)| format!("{offset}\n{len}\n")).collect();
                format!("{}\n{lines}", regions.len()).into_bytes()
            } else {
                choices.0.to_vec()
            };
            text.resize(text.len().next_multiple_of(BLOCK), 0);
            text.extend_from_slice(&content);
            push(&mut archive, b"s", b'0', &text, b"", 0o644, 0);
        }
    }
    push(&mut archive, b"g", b'0', b"behind", b"", 0o644, 0);
    archive.resize(archive.len() + 1024, 0);
    let _ = read_both_ways(&archive, 37);
});
