//! Stacks of layers full of links, markers and names that lead out, into a directory beside one that may not be touched.
#![no_main]

use groot_fuzz::{Choices, Place, push, record};
use libfuzzer_sys::fuzz_target;

thread_local! { static PLACE: Place = Place::new(); }

const NAMES: [&[u8]; 16] = [
    b"a", b"b", b"c", b"l", b"m", b"..", b".", b"", b"outside", b"victim", b".wh.a", b".wh.victim", b".wh..wh..opq", b".wh.l", b"link", b"root",
];

fn path(choices: &mut Choices<'_>, place: &Place) -> Vec<u8> {
    let mut path = match choices.byte() % 8 {
        0 => b"/".to_vec(),
        1 => format!("{}/", place.outside().display()).into_bytes(),
        2 => b"../outside/".to_vec(),
        3 => format!("../../../../../../../../..{}/", place.outside().display()).into_bytes(),
        4 => b"/proc/self/root/".to_vec(),
        _ => Vec::new(),
    };
    for i in 0..=choices.byte() % 4 {
        if i > 0 {
            path.push(b'/');
        }
        path.extend_from_slice(choices.of(&NAMES));
    }
    path
}

fn layer(choices: &mut Choices<'_>, place: &Place) -> Vec<u8> {
    let mut archive = Vec::new();
    for _ in 0..choices.byte() % 16 {
        let flag = choices.of(b"0002225551367SVZ");
        let name = path(choices, place);
        let link = if matches!(flag, b'1' | b'2') { path(choices, place) } else { Vec::new() };
        let mode = u32::from(choices.byte()) << 4 | 7;
        let owner = u64::from(choices.byte() == 255);
        let mut pax = Vec::new();
        if name.len() > 100 {
            pax.extend(record(b"path", &name));
        }
        if link.len() > 100 {
            pax.extend(record(b"linkpath", &link));
        }
        if choices.byte() & 7 == 0 {
            pax.extend(record(choices.of(&[b"SCHILY.xattr.user.x".as_slice(), b"SCHILY.xattr.trusted.x", b"mtime"]), choices.bytes(30)));
        }
        if !pax.is_empty() {
            push(&mut archive, b"ext", b'x', &pax, b"", 0o644, 0);
        }
        let body = if flag == b'0' { choices.bytes(40) } else { b"" };
        push(&mut archive, &name, flag, body, &link, mode, owner);
    }
    archive
}

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices(data);
    PLACE.with(|place| {
        place.clear();
        for _ in 0..=choices.byte() % 3 {
            // What a refused layer left is thrown away by the caller; here it stays as a start for the next one.
            let _ = place.try_apply(&layer(&mut choices, place));
        }
        place.check();
    });
});
