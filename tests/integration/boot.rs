//! How a district begins, and how it ends by itself.

use std::fs;

use crate::support::{Host, Ran, image, needs_kvm, text};

/// Runs a guest program in a district and a daemon of its own.
pub fn run(host: &Host, program: &str, arguments: &[&str]) -> Ran {
    let mut all = vec!["run", text(image(program).as_path()), "--"].into_iter().map(str::to_owned).collect::<Vec<_>>();
    all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    host.run(&all.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Runs one test of the suite, which must find nothing wrong. What it logged.
pub fn suite(arguments: &[&str]) -> String {
    suite_at(&Host::new(), arguments)
}

/// Runs one test of the suite at this host.
pub fn suite_at(host: &Host, arguments: &[&str]) -> String {
    let ran = run(host, "suite", arguments);
    assert_eq!(ran.code(), Some(0), "{arguments:?}: {ran:?}");
    ran.out
}

#[test]
fn a_program_gets_its_arguments_and_its_log_is_the_output() {
    needs_kvm!();
    let ran = run(&Host::new(), "hello", &["a", "b c", ""]);
    assert_eq!(ran.out, "hello from epoch 1\nargument: a\nargument: b c\nargument: \n");
    assert_eq!((ran.code(), ran.err.as_str()), (Some(0), ""));
}

#[test]
fn the_exit_status_of_run_is_the_program_s() {
    needs_kvm!();
    let host = Host::new();
    for (arguments, code, said) in [
        (&["exit", "0"][..], 0, ""),
        (&["exit", "7"], 7, "district: exited with code 7: as asked\n"),
        (&["error"], 1, "district: exited with code 1: no such operation\n"),
        (&["exit", "255"], 255, "district: exited with code 255: as asked\n"),
    ] {
        let ran = run(&host, "flaky", arguments);
        assert_eq!((ran.code(), ran.err.as_str()), (Some(code), said), "{arguments:?}");
    }
}

#[test]
fn a_panic_ends_with_101_and_says_what_and_where() {
    needs_kvm!();
    let ran = run(&Host::new(), "flaky", &["panic"]);
    assert_eq!(ran.code(), Some(101));
    assert!(ran.err.starts_with("district: exited with code 101: as asked at "), "{}", ran.err);
    assert!(ran.err.contains("flaky.rs:"), "{}", ran.err);
}

#[test]
fn a_fault_ends_run_with_126() {
    needs_kvm!();
    let ran = run(&Host::new(), "flaky", &["ud2"]);
    assert_eq!(ran.code(), Some(126));
    assert!(ran.err.starts_with("district: invalid instruction (vector 6, error code 0x0) at rip 0x4"), "{}", ran.err);
}

#[test]
fn a_file_that_is_no_program_is_refused_with_the_reason() {
    needs_kvm!();
    let host = Host::new();
    let whole = fs::read(image("hello")).unwrap();
    let changed = |at: usize, byte: u8| {
        let mut bytes = whole.clone();
        bytes[at] = byte;
        bytes
    };
    for (name, bytes, said) in [
        ("text", b"#!/bin/sh\necho no\n".to_vec(), "not an ELF file"),
        ("empty", Vec::new(), "not an ELF file"),
        // Offsets of e_ident[EI_CLASS], e_type and e_machine (ELF specification 1.2, figure 1-3).
        ("class", changed(4, 1), "ELF class 1: districts run 64-bit programs"),
        ("object", changed(16, 1), "ELF type 1 is not a fixed-address executable"),
        ("machine", changed(18, 183), "ELF machine 183: districts run x86-64 programs"),
        ("header", whole[..40].to_vec(), "malformed ELF file"),
        ("cut-off", whole[..6000].to_vec(), "is cut off: segment at 0x4"),
    ] {
        let ran = host.run(&["run", text(host.file(name, bytes).as_path())]);
        assert_eq!(ran.code(), Some(2), "{name}: {ran:?}");
        assert!(ran.err.contains(said), "{name}: {ran:?}");
        assert!(ran.out.is_empty(), "{name}: {ran:?}");
    }
}

#[test]
fn a_manifest_with_a_bad_image_starts_nothing() {
    needs_kvm!();
    let host = Host::new();
    host.file("text", "no program");
    let path = host.manifest("[districts.a]\nimage = 'hello'\n[districts.b]\nimage = 'text'");
    let ran = host.run(&["up", &path]);
    assert_eq!(ran.code(), Some(2));
    assert!(ran.err.contains(":4: image ") && ran.err.contains("not an ELF file"), "{}", ran.err);
    assert!(!host.path().join("state.redb").exists());
}

#[test]
fn a_program_that_is_replaced_while_its_district_waits_is_refused_with_the_reason() {
    needs_kvm!();
    let host = Host::with_daemon();
    let path = host.file("program", fs::read(image("idle")).unwrap());
    host.start(&format!("[districts.a]\nimage = '{}'\nrestart = 'never'", path.display()));
    host.running("a");
    host.ok(&["stop", "a"]);
    let mut broken = fs::read(image("idle")).unwrap();
    broken[18] = 183;
    host.file("program", broken);
    host.run(&["start", "a"]);
    host.over("a");
    let said = host.last_words("a");
    assert!(said.contains("ELF machine 183: districts run x86-64 programs"), "{said}");
    fs::remove_file(path).unwrap();
    let ran = host.run(&["start", "a"]);
    assert_eq!(ran.code(), Some(1));
    assert!(ran.err.contains("No such file or directory"), "{ran:?}");
}

#[test]
fn c01_a_cold_start_has_one_live_key_seen_from_inside() {
    needs_kvm!();
    suite(&["c01"]);
}

#[test]
fn c01_a_cold_start_has_one_live_key_seen_from_outside() {
    needs_kvm!();
    let host = Host::with("[districts.a]\nimage = 'idle'\narguments = ['connected']\ngrants.clock = 'host/clock'");
    let keys: serde_json::Value = serde_json::from_str(&host.ok(&["inspect", "a", "--json"])).unwrap();
    let keys = keys.as_array().unwrap();
    assert_eq!(keys.len(), 1, "{keys:?}");
    assert_eq!(keys[0]["handle"], 1);
    assert_eq!(keys[0]["kind"], "directory");
    assert!(keys[0]["broken"].is_null());
}

#[test]
fn c04_two_starts_have_nothing_in_common() {
    needs_kvm!();
    let host = Host::new();
    let lives: Vec<String> = (0..3).map(|_| suite_at(&host, &["identity"])).collect();
    for field in ["epoch=", "handle=", "entropy="] {
        let value = |life: &str| {
            let text = life.split_whitespace().find_map(|word| word.strip_prefix(field)).unwrap().to_owned();
            assert!(text != "0" && !text.is_empty());
            text
        };
        let mut values: Vec<String> = lives.iter().map(|life| value(life)).collect();
        values.sort();
        values.dedup();
        assert_eq!(values.len(), lives.len(), "{field} in {lives:?}");
    }
    let epochs: Vec<bool> = (1..=3).map(|epoch| lives[epoch - 1].contains(&format!("epoch={epoch} "))).collect();
    assert_eq!(epochs, [true; 3], "{lives:?}");
}

#[test]
fn c05_the_boot_page_says_where_everything_is() {
    needs_kvm!();
    suite(&["boot", "an argument"]);
}

#[test]
fn c05_the_clock_is_right() {
    needs_kvm!();
    suite(&["clock"]);
}
