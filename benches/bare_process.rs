//! The least that a process costs: a static program of three instructions.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

/// Where the program is loaded.
const BASE: u64 = 0x40_0000;
const HEADERS: usize = 120;
/// `exit(0)`.
const CODE: [u8; 9] = [
    0x31, 0xff, // xor edi, edi
    0xb8, 0x3c, 0, 0, 0, // mov eax, SYS_exit
    0x0f, 0x05, // syscall
];

/// A program that does nothing.
pub struct BareProcess {
    program: PathBuf,
    _folder: TempDir,
}

impl BareProcess {
    pub fn new() -> Result<BareProcess> {
        let folder = tempfile::tempdir()?;
        let program = folder.path().join("nothing");
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o700).open(&program)?;
        file.write_all(&elf())?;
        Ok(BareProcess { program, _folder: folder })
    }

    /// Runs it once, in a new process, and waits for its end.
    pub fn run(&self) -> Result<()> {
        let status = Command::new(&self.program).env_clear().status().context("the bare process")?;
        ensure!(status.success(), "the bare process ended with {status}");
        Ok(())
    }
}

/// An ELF file whose only segment is itself (System V ABI, "Object files").
fn elf() -> Vec<u8> {
    let size = (HEADERS + CODE.len()) as u64;
    let mut elf = vec![0; HEADERS];
    let mut put = |at: usize, bytes: &[u8]| elf[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &[0x7f, b'E', b'L', b'F', 2, 1, 1]);
    // An executable for x86-64; its entry and its program headers.
    put(16, &[2, 0, 62, 0, 1, 0, 0, 0]);
    put(24, &(BASE + HEADERS as u64).to_le_bytes());
    put(32, &64u64.to_le_bytes());
    put(52, &[64, 0, 56, 0, 1, 0]);
    // To be loaded, readable and executable.
    put(64, &[1, 0, 0, 0, 5, 0, 0, 0]);
    for (at, value) in [(80, BASE), (88, BASE), (96, size), (104, size), (112, 4096)] {
        put(at, &value.to_le_bytes());
    }
    elf.extend_from_slice(&CODE);
    elf
}
