//! How to link a district's program; all that a program needs besides the SDK.

fn main() {
    for argument in ["-Tdistrict.ld", "-nostdlib", "-static", "-no-pie"] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
