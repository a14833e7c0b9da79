//! Any bytes as a blob, through the whole pipeline: digest, inflate (gzip, zstd, plain), tar, files.
#![no_main]

use groot_core::blob::{Expected, Source};
use groot_core::layer::Options;
use groot_core::unpack::{Job, unpack};
use groot_fuzz::{Place, ids, limits};
use libfuzzer_sys::fuzz_target;
use std::io::{Seek, Write};
use std::sync::atomic::AtomicBool;

thread_local! { static PLACE: Place = Place::new(); }

const TYPES: [&str; 4] = ["", "application/vnd.oci.image.layer.v1.tar", "application/vnd.oci.image.layer.v1.tar+gzip", "x+zstd"];

fuzz_target!(|data: &[u8]| {
    let Some((&choice, blob)) = data.split_first() else { return };
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(blob).expect("write");
    file.rewind().expect("seek");
    PLACE.with(|place| {
        place.clear();
        let wrong = choice & 4 != 0;
        let expected = Expected { digest: wrong.then(|| "0".repeat(64)), size: (choice & 8 != 0).then_some(blob.len() as u64), diff_id: None };
        let options = Options { ids: ids(), limits: limits(), ..Options::default() };
        let job = Job { source: Source::File(file), expected, media_type: TYPES[usize::from(choice) % 4].into(), root: place.open(), options };
        match unpack(job, &AtomicBool::new(false)) {
            Ok(_) => assert!(!wrong, "a wrong digest was accepted"),
            Err(error) => {
                let text = error.to_string();
                assert!(!text.starts_with("internal error"), "{text}");
                assert!(!wrong || text.contains("digest mismatch"), "a wrong digest is not the reason: {text}");
            }
        }
        place.check();
    });
});
