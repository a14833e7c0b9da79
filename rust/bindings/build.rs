//! Links the unwinder into the module. As a library of its own (`libgcc_s.so.1`, which rustc names) it is one more to find, map and
//! relocate at the start of every command, for the sake of panics that do not happen.

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // What ld takes for the library is a script that names the compiler's static one (ld(1), "INPUT").
    let directory = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    fs::write(directory.join("libgcc_s.so"), "INPUT(-lgcc_eh -lgcc)\n").expect("cargo made the directory");
    println!("cargo:rustc-link-search=native={}", directory.display());
}
