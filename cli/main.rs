//! The `district` command; see the library of the same name.

use std::process::ExitCode;

fn main() -> ExitCode {
    district::main()
}
