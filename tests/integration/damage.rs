//! Disks that are full, and files that are not what was written: memory is never silently wrong.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use district::api::event::{Event, EventKind};
use district::api::info::State;

use crate::dice::Dice;
use crate::durability::{Read, committed, noted, read};
use crate::memory::{count_after, count_after_loss, counting};
use crate::support::{Host, is_slow, needs_kvm, wait};

/// Bytes of the disk that is going to be full.
const DISK: usize = 16 << 20;

/// Takes all room that there is, with a file of that name.
fn fill(folder: &Path) -> PathBuf {
    let path = folder.join("filler");
    let mut file = OpenOptions::new().append(true).create(true).open(&path).unwrap();
    for size in [1 << 20, 4096, 1] {
        while file.write_all(&vec![7; size]).is_ok() {}
    }
    path
}

/// A counter on a small disk.
fn on_small_disk(checkpoints: &str) -> Option<(Host, PathBuf)> {
    let mut host = Host::new();
    let folder = host.start_daemon_on_small_disk(DISK)?;
    host.start(&counting(checkpoints));
    host.running("counter");
    Some((host, folder))
}

fn failures(events: &std::sync::mpsc::Receiver<Event>) -> Vec<String> {
    events.try_iter().filter(|event| event.kind == EventKind::CheckpointFailed).map(|event| event.text).collect()
}

#[test]
fn c49_with_a_full_disk_there_is_no_checkpoint_and_the_district_goes_on() {
    needs_kvm!();
    let Some((host, folder)) = on_small_disk("'on-demand'") else { return };
    let events = host.events();
    let checkpoint = || host.client().unwrap().checkpoint(&"counter".parse().unwrap());
    let mut good = host.checkpoint("counter").generation;
    for _ in 0..2 {
        let filler = fill(&folder);
        let all = host.checkpoints("counter");
        for _ in 0..3 {
            let error = checkpoint().unwrap_err().to_string();
            assert!(error.contains("no checkpoint of district `counter`: "), "{error}");
            let seen = host.lines("client").len();
            count_after(&host, seen);
        }
        let said = failures(&events);
        assert!(said.iter().any(|text| text.contains("No space left on device")), "{said:?}");
        assert_eq!(host.info("counter").epoch, 1);
        assert_eq!(host.checkpoints("counter").last(), all.last());
        fs::remove_file(&filler).unwrap();
        let next = checkpoint().expect("the next one, with room on the disk");
        assert!(next.generation > good && next.parent == good, "{next:?} after {good}");
        // No empty file is left of each attempt.
        let files = fs::read_dir(folder.join(host.info("counter").id).join("memory")).unwrap().count();
        assert!(files < 6, "{files} files");
        good = next.generation;
    }
    let count = count_after(&host, host.lines("client").len());
    host.checkpoint("counter");
    let seen = host.lines("client").len();
    host.kill("counter");
    assert!(count_after_loss(&host, seen) >= count);
}

#[test]
fn c49_checkpoints_that_are_taken_again_and_again_go_on_when_there_is_room() {
    needs_kvm!();
    let Some((host, folder)) = on_small_disk("{ every = '5ms' }") else { return };
    wait("checkpoints", || (host.checkpoints("counter").len() > 2).then_some(()));
    let events = host.events();
    let filler = fill(&folder);
    wait("it is said that there are none", || (!failures(&events).is_empty()).then_some(()));
    let last = host.checkpoints("counter").last().unwrap().generation;
    let count = count_after(&host, host.lines("client").len());
    let begin = std::time::Instant::now();
    wait("it counts on", || (count_after(&host, host.lines("client").len()) > count + 50).then_some(()));
    let (said, passed) = (failures(&events).len() as u64, begin.elapsed());
    assert!(said <= passed.as_secs() / 10, "{said} times in {passed:?}");
    fs::remove_file(&filler).unwrap();
    wait("checkpoints go on", || (host.checkpoints("counter").last()?.generation > last + 2).then_some(()));
    assert_eq!(host.info("counter").epoch, 1);
}

#[test]
fn c49_a_district_that_cannot_begin_for_want_of_room_begins_when_there_is_some() {
    needs_kvm!();
    let Some((host, folder)) = on_small_disk("'on-demand'") else { return };
    let count = count_after(&host, host.lines("client").len());
    host.checkpoint("counter");
    let filler = fill(&folder);
    let seen = host.lines("client").len();
    host.kill("counter");
    let end = host.until("counter", "cannot be started", |info| {
        info.last_end.as_ref().is_some_and(|end| end.text.contains("it cannot be started: "))
    });
    assert!(end.last_end.unwrap().text.contains("No space left on device"));
    fs::remove_file(&filler).unwrap();
    assert!(count_after_loss(&host, seen) >= count);
}

#[test]
fn c49_a_clone_for_which_there_is_no_room_leaves_nothing() {
    needs_kvm!();
    let Some((host, folder)) = on_small_disk("'on-demand'") else { return };
    host.ok(&["snapshot", "counter", "--tag", "t"]);
    let files = || fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect::<BTreeSet<_>>();
    let filler = fill(&folder);
    let (before, full) = (files(), fs::metadata(&filler).unwrap().len());
    // Its own file needs two pages, its log one more.
    for pages in 0..3 {
        OpenOptions::new().write(true).open(&filler).unwrap().set_len(full - pages * 4096).unwrap();
        let ran = host.run(&["clone", "counter", "twin", "--from", "t"]);
        assert_eq!(ran.code(), Some(1), "{pages}: {ran:?}");
        assert!(ran.err.contains("No space left on device"), "{pages}: {}", ran.err);
        wait("it is forgotten", || (host.list().len() == 2 && files() == before).then_some(()));
    }
    fs::remove_file(&filler).unwrap();
    host.ok(&["clone", "counter", "twin", "--from", "t"]);
    host.running("twin");
    host.ok(&["stop", "twin"]);
    host.ok(&["start", "twin"]);
    assert_eq!(host.running("twin").epoch, host.info("counter").epoch + 2);
}

/// Files of notes that were written, committed, restored and written again, and what each generation must have.
struct Ruin {
    host: Host,
    intact: PathBuf,
    memory: PathBuf,
    commits: Vec<(u64, u64)>,
}

impl Ruin {
    fn new() -> Ruin {
        let mut host =
            Host::with(&noted("'on-demand'", "'40', '5', '0'").replace("intensity = 100000", "intensity = 5"));
        host.over("writer");
        host.line("writer", "verified 40");
        host.ok(&["snapshot", "notes", "--tag", "kept"]);
        host.kill("notes");
        host.running("notes");
        // It begins anew, and writes the same.
        host.run_again("writer");
        wait("an image of its own", || host.directory("notes").join("memory/home").exists().then_some(()));
        let commits = committed(&host);
        let memory = host.directory("notes").join("memory");
        host.ok(&["stop", "notes"]);
        host.stop_daemon();
        let intact = host.path().join("intact");
        copy(&memory, &intact);
        Ruin { host, intact, memory, commits }
    }

    /// The files, with their lengths.
    fn files(&self) -> Vec<(String, u64)> {
        let entries = fs::read_dir(&self.intact).unwrap().map(Result::unwrap);
        let mut files: Vec<_> =
            entries.map(|it| (it.file_name().into_string().unwrap(), it.metadata().unwrap().len())).collect();
        files.sort();
        files
    }

    /// What comes of files that were changed like this: the generation that notes went on from, or why it did not.
    fn after(&mut self, change: impl FnOnce(&Path)) -> Result<u64, String> {
        fs::remove_dir_all(&self.memory).unwrap();
        copy(&self.intact, &self.memory);
        change(&self.memory);
        self.host.start_daemon();
        let host = &self.host;
        let ran = host.run(&["start", "notes"]);
        let outcome = if ran.status.success() {
            wait("notes run, or do not", || {
                let info = host.info("notes");
                match info.state {
                    State::Running => Some(Ok(info.epoch)),
                    State::BackingOff | State::Failed => Some(Err(info.last_end?.text)),
                    _ => None,
                }
            })
        } else {
            Err(ran.err)
        };
        let outcome = outcome.map(|epoch| {
            let found = read(host);
            // Its log says where it came from; without a line it has fresh memory, which nobody has asked for.
            let said = host.lines("notes");
            let restored = said.iter().rev().find(|line| line.contains(&format!("epoch {epoch},")));
            let generation = restored.and_then(|line| line.rsplit_once("generation ")?.1.parse().ok());
            let generation = generation.unwrap_or_else(|| panic!("epoch {epoch} came from nothing: {said:?}"));
            self.check(generation, found);
            generation
        });
        host.ok(&["stop", "notes"]);
        self.host.stop_daemon();
        outcome
    }

    /// All that was committed with this generation is there, and nothing of later.
    fn check(&self, generation: u64, found: Read) {
        let least =
            self.commits.iter().filter(|commit| commit.1 <= generation).map(|commit| commit.0).max().unwrap_or(0);
        let most = self.commits.iter().find(|commit| commit.1 > generation).map_or(40, |commit| commit.0).max(least);
        let whole = found.count == found.whole && found.whole == found.last;
        assert!(whole && (least..=most).contains(&found.whole), "{generation}: {found:?} is not {least} to {most}");
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for file in fs::read_dir(from).unwrap().map(Result::unwrap) {
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

fn cut(path: &Path, length: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(length).unwrap();
}

/// Whether this says what is wrong.
fn is_clear(error: &str) -> bool {
    let words = ["damaged", "cannot be restored", "cut off", "missing"];
    words.iter().any(|word| error.contains(word))
}

/// How many changes are tried of each kind.
fn tries() -> usize {
    if is_slow() { 1 } else { 6 }
}

/// Does something to each file, at some places that matter and some that may not. Each time an intact generation is gone on
/// from, or the error is clear.
fn check_each(what: &str, places: impl Fn(u64) -> Vec<u64>, spoil: fn(&Path, u64)) {
    let mut dice = Dice::new();
    let mut ruin = Ruin::new();
    let newest = ruin.after(|_| ()).unwrap();
    for (name, length) in ruin.files() {
        let any = (0..tries()).map(|_| dice.roll(usize::try_from(length).unwrap()) as u64);
        let places: Vec<_> = places(length).into_iter().filter(|at| *at < length).chain(any).collect();
        for at in places {
            let outcome = ruin.after(|memory| spoil(&memory.join(&name), at));
            println!("{name} {what} {at} of {length}: {outcome:?}");
            match outcome {
                Ok(generation) => assert!(generation <= newest),
                Err(error) => assert!(is_clear(&error), "{name} {what} {at} of {length}: {error}"),
            }
        }
    }
}

#[test]
fn c51_flipped_bits_in_the_memory_are_noticed() {
    needs_kvm!();
    check_each("flipped at", |length| vec![100, 4096 + 17, length.saturating_sub(4096 - 30)], flip);
}

#[test]
fn c51_cut_off_files_of_the_memory_are_noticed() {
    needs_kvm!();
    check_each("cut to", |length| vec![0, 4096, length - 1], cut);
}

#[test]
fn c51_a_damaged_snapshot_is_never_gone_back_to() {
    needs_kvm!();
    let mut dice = Dice::new();
    let ruin = Ruin::new();
    let Ruin { mut host, commits, .. } = ruin;
    host.start_daemon();
    host.ok(&["start", "notes"]);
    host.running("notes");
    let kept = host.directory("notes").join("snapshots/kept");
    let good = fs::read(&kept).unwrap();
    let mut tried: Vec<(bool, usize)> = vec![(false, 100), (false, 4096 + 17), (true, good.len() - 1), (true, 4096)];
    for _ in 0..tries() {
        tried.push((false, dice.roll(good.len())));
        tried.push((true, dice.roll(good.len())));
    }
    for (is_cut, at) in tried {
        // A new file: the memory may share the old one.
        fs::remove_file(&kept).unwrap();
        fs::write(&kept, &good).unwrap();
        match is_cut {
            true => cut(&kept, at as u64),
            false => flip(&kept, at as u64),
        }
        let ran = host.run(&["restart", "notes", "--from", "kept"]);
        let end =
            host.until("notes", "runs, or does not", |info| !matches!(info.state, State::Starting | State::Stopping));
        println!("cut {is_cut} at {at} of {}: {:?}, {:?}", good.len(), ran.code(), end.state);
        if !ran.status.success() {
            assert!(is_clear(&ran.err), "{at}: {}", ran.err);
        }
        // Whatever it says, the district goes on with memory that it has had.
        host.running("notes");
        let found = read(&host);
        assert!(found.count == 40 && found.whole == 40, "{at}: {found:?}, {commits:?}");
    }
}

#[test]
fn a_checkpoint_that_shows_its_damage_too_late_is_asked_for_once() {
    needs_kvm!();
    let host = Host::with(&counting("'on-demand'"));
    let [first, second] = [(); 2].map(|()| {
        count_after(&host, host.lines("client").len());
        host.checkpoint("counter")
    });
    // Now nothing that is needed builds on the second.
    host.ok(&["restart", "counter", "--from", &first.generation.to_string()]);
    wait("a checkpoint of the new way", || {
        host.checkpoints("counter").iter().any(|info| info.epoch == 2 && info.parent == first.generation).then_some(())
    });
    // In its data, which nobody looks at before it is used.
    flip(&host.directory("counter").join("memory/log.1"), 4096 + first.bytes + second.bytes / 2);
    let seen = host.lines("counter").len();
    let ran = host.run(&["restart", "counter", "--from", &second.generation.to_string()]);
    assert!(ran.code() == Some(1) && is_clear(&ran.err), "{ran:?}");
    // It goes on with what it had.
    host.running("counter");
    host.line_after("counter", seen, "publishing counter again");
}
