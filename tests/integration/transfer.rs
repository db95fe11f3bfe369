//! Snapshots that are taken elsewhere.

use std::fs;

use district::api::info::State;

use crate::snapshots::{counting_host, directories, first_count, refused, restored_at, snapshot};
use crate::support::{Host, image, needs_kvm, text};

#[test]
fn an_export_becomes_a_district_elsewhere() {
    needs_kvm!();
    let here = counting_host();
    let then = snapshot(&here, "then");
    let file = here.path().join("counter.district");
    let said = here.ok(&["export", "counter", "then", text(&file)]);
    assert!(said.starts_with("counter  snapshot then of generation "), "{said}");
    let size = file.metadata().unwrap().len();
    assert!(size > 4096 && size < 4 << 20, "{size}");
    refused(&here, &["export", "counter", "then", text(&file)], &format!("{} cannot be made: ", file.display()));
    refused(&here, &["export", "counter", "then", "/nowhere/x"], "/nowhere/x cannot be made: No such file");

    let there = Host::with_daemon();
    let said = there.ok(&["import", text(&file), "immigrant"]);
    assert_eq!(said, "immigrant  stopped (epoch 1)\n");
    refused(&there, &["import", text(&file), "immigrant"], "there is a district `immigrant` already\n");
    there.ok(&["start", "immigrant"]);
    let restored = restored_at(&there, "immigrant", 0);
    assert!(then.contains(&restored), "{restored} is not in {then:?}");
    assert_eq!(first_count(&there, "immigrant"), restored + 1);
    let info = there.info("immigrant");
    assert_eq!((info.epoch, info.restarts), (2, 0));
    // What was taken in can be kept and passed on like any other.
    there.ok(&["snapshot", "immigrant", "--tag", "again"]);
    there.ok(&["export", "immigrant", "again", text(&there.path().join("again.district"))]);
    there.ok(&["import", text(&there.path().join("again.district")), "second"]);
    assert_eq!(there.info("second").state, State::Stopped);
}

#[test]
fn what_is_no_export_is_refused_and_leaves_nothing() {
    needs_kvm!();
    let host = counting_host();
    snapshot(&host, "then");
    let file = host.path().join("good");
    host.ok(&["export", "counter", "then", text(&file)]);
    let good = fs::read(&file).unwrap();
    let before = (directories(&host), host.list().len());
    let import = |contents: &[u8], what: &str| {
        let bad = host.file("bad", contents);
        let ran = host.run(&["import", text(&bad), "never"]);
        assert_eq!(ran.code(), Some(1), "{what}: {ran:?}");
        assert!(ran.err.starts_with(&format!("error: {}: ", bad.display())), "{what}: {}", ran.err);
        assert!(ran.err.contains("\n  remedy: "), "{what}: {}", ran.err);
        assert_eq!((directories(&host), host.list().len()), before, "{what} has left something");
    };
    import(b"", "nothing");
    import(&[0; 8192], "zeros");
    import(b"garbage".repeat(2000).as_slice(), "garbage");
    import(&fs::read(image("hello")).unwrap(), "a program");
    for length in [1, 4095, 4096, 4097, 8192, good.len() / 2, good.len() - 4096, good.len() - 1] {
        import(&good[..length], &format!("cut off after {length} bytes"));
    }
    import(&[&good[..], &[0]].concat(), "one byte too many");
    for step in 0..24 {
        let at = (good.len() - 1) * step / 23;
        let mut flipped = good.clone();
        flipped[at] ^= 0x10;
        import(&flipped, &format!("a flipped bit at {at}"));
    }
    let nowhere = host.run(&["import", "/nowhere/x", "never"]);
    assert!(nowhere.err.starts_with("error: /nowhere/x cannot be opened: No such file"), "{nowhere:?}");
    let folder = host.run(&["import", text(host.path()), "never"]);
    assert!(folder.err.contains(" cannot be opened: "), "{folder:?}");
    assert_eq!((directories(&host), host.list().len()), before);
    // It is the file that was wrong.
    host.ok(&["import", text(&file), "never"]);
}
