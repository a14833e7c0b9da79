//! Any bytes as an archive, whole and in pieces. Blocks that say they are headers get a right checksum.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&piece, archive)) = data.split_first() else { return };
    let mut archive = archive.to_vec();
    let _ = groot_fuzz::read_both_ways(&archive, usize::from(piece));
    groot_fuzz::seal(&mut archive);
    let _ = groot_fuzz::read_both_ways(&archive, usize::from(piece) * 8);
});
