//! Two layers with whiteouts: where the markers stand among the entries of their layer must not matter.
//!
//! A name is always a directory or always a file; a marker below something that the same layer turns into something else
//! has no one meaning.
#![no_main]

use groot_fuzz::{Choices, Place, push};
use libfuzzer_sys::fuzz_target;

thread_local! { static PLACE: Place = Place::new(); }

const DIRECTORIES: [&[u8]; 6] = [b"p", b"q", b"p/q", b"q/p", b"p/q/p", b""];
const FILES: [&[u8]; 3] = [b"f", b"g", b".x"];

type Item = (Vec<u8>, u8, u8);

fn items(choices: &mut Choices<'_>) -> (Vec<Item>, Vec<Item>) {
    let (mut entries, mut markers) = (Vec::new(), Vec::new());
    for _ in 0..choices.byte() % 12 {
        let kind = choices.byte();
        let directory = choices.of(&DIRECTORIES);
        let below = |name: &[u8]| [directory, if directory.is_empty() { b"" } else { b"/" }, name].concat();
        let tag = choices.byte();
        match kind % 6 {
            0 | 1 => entries.push((below(choices.of(&FILES)), b'0', tag)),
            2 if !directory.is_empty() => entries.push((directory.to_vec(), b'5', tag)),
            3 => markers.push((below(&[b".wh.".as_slice(), choices.of(&FILES)].concat()), b'0', tag)),
            4 => markers.push((below(&[b".wh.".as_slice(), choices.of(&[b"p".as_slice(), b"q"])].concat()), b'0', tag)),
            _ => markers.push((below(b".wh..wh..opq"), b'0', tag)),
        }
    }
    (entries, markers)
}

fn archive(items: &[Item]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, flag, tag) in items {
        let body: &[u8] = if *flag == b'0' { std::slice::from_ref(tag) } else { b"" };
        push(&mut archive, name, *flag, body, b"", 0o700 | u32::from(*tag & 0o77), 0);
    }
    archive
}

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices(data);
    let (lower, _) = items(&mut choices);
    let (entries, markers) = items(&mut choices);
    let mut shuffled = entries.clone();
    for marker in &markers {
        shuffled.insert(usize::from(choices.byte()) % (shuffled.len() + 1), marker.clone());
    }
    PLACE.with(|place| {
        let trees = [[markers.as_slice(), &entries].concat(), [entries.as_slice(), &markers].concat(), shuffled].map(|upper| {
            place.clear();
            place.apply(&archive(&lower)).expect("the lower layer is fine");
            place.apply(&archive(&upper)).expect("the upper layer is fine");
            place.tree()
        });
        place.check();
        assert_eq!(trees[0], trees[1], "markers first and markers last differ");
        assert_eq!(trees[0], trees[2], "markers first and markers in between differ");
        for (name, flag, tag) in &entries {
            let path = std::path::Path::new(std::str::from_utf8(name).expect("ASCII"));
            let last = entries.iter().rev().find(|(other, ..)| other == name).expect("itself");
            if *flag == b'0' && last.2 == *tag {
                assert_eq!(trees[0].get(path).map(|look| look.6.as_slice()), Some(std::slice::from_ref(tag)), "a file of the layer is gone");
            }
        }
    });
});
