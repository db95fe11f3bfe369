//! Puts the linker script on the search path of every program that depends on the SDK.

use std::{env, fs, io, path::Path};

fn main() -> io::Result<()> {
    let out = env::var("OUT_DIR").map_err(io::Error::other)?;
    fs::copy("district.ld", Path::new(&out).join("district.ld"))?;
    println!("cargo::rustc-link-search={out}");
    println!("cargo::rerun-if-changed=district.ld");
    Ok(())
}
