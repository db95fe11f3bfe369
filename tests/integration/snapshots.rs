//! Memory that is kept: snapshots, going back, clones, and files for other hosts.

use std::fs;
use std::path::PathBuf;

use district::api::info::CheckpointInfo;
use district::api::name::Name;
use district::api::snapshot::SnapshotInfo;
use district::api::spec::{Grant, Published, Spec, Target};

use crate::memory::{count_after, counting};
use crate::support::{Host, image, needs_kvm, wait};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// Waits until the counter has gone on from `count`; what its client was told then.
fn beyond(host: &Host, count: u64) -> u64 {
    wait("it counts", || Some(now(host)).filter(|now| *now > count))
}

/// What the client is told next.
fn now(host: &Host) -> u64 {
    count_after(host, host.lines("client").len())
}

/// Where a counter was when it noticed that it lives again, beyond the first `skip` lines of its log.
pub fn restored_at(host: &Host, district: &str, skip: usize) -> u64 {
    let line = host.line_after(district, skip, ", publishing counter again");
    line.strip_prefix("at ").and_then(|rest| rest.split(',').next()).unwrap().parse().unwrap()
}

/// A host on which a counter counts, and takes checkpoints when somebody asks for them.
pub fn counting_host() -> Host {
    let host = Host::with(&counting("'on-demand'"));
    beyond(&host, 20);
    host
}

/// Makes a snapshot of the running counter. Between which counts it was taken.
pub fn snapshot(host: &Host, tag: &str) -> std::ops::RangeInclusive<u64> {
    let before = now(host);
    host.ok(&["snapshot", "counter", "--tag", tag]);
    before..=now(host)
}

fn snapshots(host: &Host, arguments: &[&str]) -> Vec<SnapshotInfo> {
    serde_json::from_str(&host.ok(&[&["snapshots", "--json"], arguments].concat())).unwrap()
}

fn checkpoints(host: &Host, district: &str) -> Vec<CheckpointInfo> {
    serde_json::from_str(&host.ok(&["checkpoints", district, "--json"])).unwrap()
}

/// That the command fails and what is said begins so.
#[track_caller]
pub fn refused(host: &Host, arguments: &[&str], beginning: &str) {
    let ran = host.run(arguments);
    assert_eq!(ran.code(), Some(1), "{arguments:?}: {ran:?}");
    assert!(
        ran.err.starts_with(&format!("error: {beginning}")),
        "{arguments:?} said:\n{}wanted:\n{beginning}",
        ran.err
    );
    assert!(ran.err.contains("\n  remedy: "), "{arguments:?}: {}", ran.err);
    assert!(ran.out.is_empty(), "{ran:?}");
}

/// The directories of districts, as the daemon has them.
pub fn directories(host: &Host) -> Vec<PathBuf> {
    let mut all: Vec<_> = fs::read_dir(host.path().join("districts")).unwrap().map(|it| it.unwrap().path()).collect();
    all.sort();
    all
}

/// A client of another counter, which calls it as often.
fn client_of(counter: &str) -> Spec {
    let mut spec = Spec::new(name(&format!("client-of-{counter}")), image("client"));
    spec.arguments = ["counter", "0", "1"].map(str::to_owned).to_vec();
    let published = Published { district: name(counter), name: "counter".to_owned() };
    spec.grants = [("log", Target::Log), ("clock", Target::Clock), ("counter", Target::Published(published))]
        .map(|(name, target)| (name.to_owned(), Grant::to(target)))
        .into();
    spec
}

/// What the first answer of another counter to a new client was.
pub fn first_count(host: &Host, counter: &str) -> u64 {
    let spec = client_of(counter);
    let client = spec.name.clone();
    host.client().unwrap().start(vec![spec]).unwrap();
    host.line(client.as_str(), "counter is at ").rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_checkpoint_by_hand_says_what_it_has_cost_and_is_in_the_table() {
    needs_kvm!();
    let host = counting_host();
    let said = host.ok(&["checkpoint", "counter"]);
    assert!(said.starts_with("counter  generation 1: "), "{said}");
    assert!(said.contains(" pages, ") && said.contains("; it stood still for ") && said.ends_with("s\n"), "{said}");
    beyond(&host, now(&host));
    let second: CheckpointInfo = serde_json::from_str(&host.ok(&["checkpoint", "counter", "--json"])).unwrap();
    assert_eq!((second.generation, second.parent, second.epoch), (2, 1, 1));
    assert!(second.data_pages > 0 && second.pause_us.is_some() && second.total_us > second.pause_us, "{second:?}");

    let all = checkpoints(&host, "counter");
    assert_eq!(all.last(), Some(&second));
    assert!(all.iter().all(|info| info.restorable && info.obstacle.is_none()), "{all:?}");
    let table = host.ok(&["checkpoints", "counter"]);
    assert!(table.starts_with("GENERATION  PARENT  EPOCH  AGE "), "{table}");
    let last = table.lines().last().unwrap();
    assert!(last.starts_with("2           1       1 ") && last.ends_with("restorable"), "{table}");
}

#[test]
fn a_district_without_checkpoints_says_what_it_lacks() {
    needs_kvm!();
    let host = Host::with(&counting("'none'"));
    refused(&host, &["checkpoint", "counter"], "no checkpoint of district `counter`: no checkpoints are taken of it\n");
    refused(&host, &["snapshot", "counter"], "no checkpoint of district `counter`: no checkpoints are taken of it\n");
    refused(&host, &["clone", "counter", "b"], "no checkpoint of district `counter`: no checkpoints are taken of it\n");
    refused(&host, &["restart", "counter", "--from", "1"], "no checkpoints are taken of district `counter`\n");
    host.ok(&["stop", "counter"]);
    refused(&host, &["snapshot", "counter"], "there is no checkpoint of district `counter` yet\n");
    refused(&host, &["clone", "counter", "b"], "there is no checkpoint of district `counter` yet\n");
    refused(&host, &["checkpoint", "counter"], "no checkpoint of district `counter`: it is not running\n");
    assert_eq!(host.ok(&["checkpoints", "counter"]), "no checkpoints\n");
    assert_eq!(host.ok(&["snapshots"]), "no snapshots\n");
    assert_eq!(host.list().len(), 2);
    assert_eq!(directories(&host).len(), 2);
}

#[test]
fn snapshots_have_tags_of_their_own_and_stay_until_they_are_removed() {
    needs_kvm!();
    let host = counting_host();
    let said = host.ok(&["snapshot", "counter", "--tag", "first"]);
    assert!(said.starts_with("counter  snapshot first of generation 1: 16 MiB of memory, "), "{said}");
    refused(&host, &["snapshot", "counter", "--tag", "first"], "district `counter` has a snapshot `first` already\n");
    for (tag, hint) in
        [("17", "tag `17` is a number"), ("a/b", "tag name \"a/b\" has the character '/'"), ("", "empty")]
    {
        let ran = host.run(&["snapshot", "counter", "--tag", tag]);
        assert_eq!(ran.code(), Some(2), "{tag:?}: {ran:?}");
        assert!(ran.err.contains(hint), "{tag:?}: {}", ran.err);
    }
    // Of one that does not run: its last checkpoint, and a tag that nobody has thought of.
    host.ok(&["stop", "counter"]);
    let stopped: SnapshotInfo = serde_json::from_str(&host.ok(&["snapshot", "counter", "--json"])).unwrap();
    assert_eq!(stopped.tag.as_str(), format!("g{}", stopped.generation));
    assert_eq!(checkpoints(&host, "counter").last().unwrap().generation, stopped.generation);

    let all = snapshots(&host, &[]);
    assert_eq!(all, snapshots(&host, &["counter"]));
    assert_eq!(all.iter().map(|info| info.tag.as_str()).collect::<Vec<_>>(), ["first", stopped.tag.as_str()]);
    assert!(all[0].disk > 0 && all[0].disk < 16 << 20 && all[0].memory == 16 << 20, "{all:?}");
    let table = host.ok(&["snapshots"]);
    assert!(
        table.starts_with("DISTRICT  TAG    GENERATION  TAKEN                MEMORY  DISK\ncounter   first  1 "),
        "{table}"
    );

    assert_eq!(host.ok(&["rm", "counter", "--snapshot", "first"]), "counter  snapshot first removed\n");
    refused(&host, &["rm", "counter", "--snapshot", "first"], "district `counter` has no snapshot `first`\n");
    assert_eq!(snapshots(&host, &[]).len(), 1);
}

#[test]
fn going_back_to_a_snapshot_brings_back_the_memory_of_then() {
    needs_kvm!();
    let host = counting_host();
    let then = snapshot(&host, "then");
    let later = beyond(&host, *then.end() + 50);
    let highest = checkpoints(&host, "counter").last().unwrap().generation;
    let seen = host.lines("counter").len();
    let said = host.ok(&["restart", "counter", "--from", "then"]);
    assert!(said.starts_with("counter  "), "{said}");
    let restored = restored_at(&host, "counter", seen);
    assert!(then.contains(&restored), "{restored} is not in {then:?}");
    assert!(restored < later);

    // Numbers of checkpoints go on, and the first new one builds on the snapshot.
    beyond(&host, restored);
    let new: CheckpointInfo = serde_json::from_str(&host.ok(&["checkpoint", "counter", "--json"])).unwrap();
    assert!(new.generation > highest + 1, "{new:?} after {highest}, and one that was taken when it was stopped");
    let all = checkpoints(&host, "counter");
    assert_eq!(all.first().map(|info| info.generation), Some(snapshots(&host, &[])[0].generation), "{all:?}");

    // Once more, from a stopped one.
    host.ok(&["stop", "counter"]);
    let seen = host.lines("counter").len();
    host.ok(&["start", "counter", "--from", "then"]);
    assert_eq!(restored_at(&host, "counter", seen), restored);
    // The snapshot has stayed what it was, although what was made of it has gone on.
    beyond(&host, restored + 20);
    let seen = host.lines("counter").len();
    host.ok(&["restart", "counter", "--from", "then"]);
    assert_eq!(restored_at(&host, "counter", seen), restored);
}

#[test]
fn going_back_to_a_checkpoint_holds_even_if_the_district_fails_at_once() {
    needs_kvm!();
    let host = counting_host();
    let before = now(&host);
    let old: CheckpointInfo = serde_json::from_str(&host.ok(&["checkpoint", "counter", "--json"])).unwrap();
    let then = before..=now(&host);
    let later = beyond(&host, *then.end() + 500);
    let newer: CheckpointInfo = serde_json::from_str(&host.ok(&["checkpoint", "counter", "--json"])).unwrap();
    assert!(newer.generation > old.generation);

    let seen = host.lines("counter").len();
    host.ok(&["restart", "counter", "--from", &old.generation.to_string()]);
    let restored = restored_at(&host, "counter", seen);
    assert!(then.contains(&restored), "{restored} is not in {then:?}");
    for _ in 0..3 {
        let seen = host.lines("counter").len();
        host.kill("counter");
        let again = restored_at(&host, "counter", seen);
        assert!(again >= restored && again < later, "{again}, gone back to {restored} from {later}");
    }
    let all = checkpoints(&host, "counter");
    assert!(all.windows(2).all(|pair| pair[0].generation < pair[1].generation), "{all:?}");
    assert!(all.iter().any(|info| info.parent == old.generation && info.generation > newer.generation), "{all:?}");
}

#[test]
fn a_cold_start_is_not_undone_by_the_checkpoints_before_it() {
    needs_kvm!();
    let mut host = counting_host();
    let count = now(&host);
    host.ok(&["checkpoint", "counter"]);
    host.ok(&["stop", "client"]);
    host.ok(&["restart", "counter", "--cold"]);
    host.running("counter");
    host.kill("counter");
    host.running("counter");
    host.stop_daemon();
    host.start_daemon();
    host.running("counter");
    let seen = host.lines("client").len();
    host.ok(&["start", "client"]);
    let now = count_after(&host, seen);
    assert!(now < count, "{now}, and it was at {count} before it began anew");
}

#[test]
fn what_is_not_there_cannot_be_gone_back_to_and_nothing_is_stopped_for_it() {
    needs_kvm!();
    let host = counting_host();
    host.ok(&["checkpoint", "counter"]);
    let epoch = host.info("counter").epoch;
    for verb in ["restart", "start"] {
        let from = |from| host.run(&[verb, "counter", "--from", from]);
        assert_eq!(from("../x").code(), Some(2));
        assert_eq!(host.run(&[verb, "counter", "--from", "x", "--cold"]).code(), Some(2));
    }
    refused(&host, &["restart", "counter", "--from", "none"], "district `counter` has no snapshot `none`\n");
    refused(
        &host,
        &["restart", "counter", "--from", "4711"],
        "district `counter`: generation 4711 cannot be restored: it, or one that it builds on, is missing or damaged\n",
    );
    refused(&host, &["start", "counter", "--from", "1"], "district `counter` is running\n");
    refused(&host, &["start", "counter", "--cold"], "district `counter` is running\n");
    refused(&host, &["clone", "counter", "b", "--from", "none"], "district `counter` has no snapshot `none`\n");
    refused(&host, &["clone", "counter", "client"], "there is a district `client` already\n");
    refused(&host, &["clone", "none", "b"], "no district has the name `none`\n");
    refused(&host, &["export", "counter", "none", "/tmp/never"], "district `counter` has no snapshot `none`\n");
    assert_eq!(host.info("counter").epoch, epoch);
    assert_eq!(directories(&host).len(), 2);
    let manifest = host.manifest(&counting("'on-demand'"));
    assert_eq!(host.run(&["start", &manifest, "--cold"]).code(), Some(2));
}

#[test]
fn the_boot_page_says_why_and_from_which_checkpoint() {
    needs_kvm!();
    let host = Host::with(
        "[districts.holder]
         image = 'witness'
         arguments = ['service']
         checkpoints = 'on-demand'
         grants = { log = 'host/log', service = 'counter/counter' }
         [districts.counter]
         image = 'counter'
         publishes = ['counter']",
    );
    host.line("holder", "service has version");
    let told = |district: &str, skip: usize, what: &str| host.line_after(district, skip, what);
    let info: SnapshotInfo = serde_json::from_str(&host.ok(&["snapshot", "holder", "--tag", "t", "--json"])).unwrap();
    host.ok(&["restart", "holder"]);
    told("holder", 0, "in epoch 2 session 1 for Some(Requested), generation ");
    let skip = host.lines("holder").len();
    host.ok(&["restart", "holder", "--from", "t"]);
    told("holder", skip, &format!("in epoch 3 session 1 for Some(RollBack), generation {}", info.generation));
    let skip = host.lines("holder").len();
    host.kill("holder");
    told("holder", skip, "in epoch 4 session 1 for Some(Crash)");
    host.ok(&["clone", "holder", "twin"]);
    told("twin", 0, "in epoch 5 session 1 for Some(Clone), generation ");
}

#[test]
fn clones_are_districts_of_their_own() {
    needs_kvm!();
    let host = counting_host();
    let then = snapshot(&host, "then");
    beyond(&host, *then.end() + 50);
    let original = host.info("counter");
    let said = host.ok(&["clone", "counter", "twin", "--from", "then"]);
    assert!(said.ends_with("(epoch 2)\n"), "{said}");
    let twin = host.running("twin");
    assert_ne!(twin.id, original.id);
    // What it remembers is epoch 1, in which the snapshot was taken.
    assert_eq!((twin.epoch, twin.restarts), (2, 0));
    assert_eq!(twin.memory, original.memory);
    let restored = restored_at(&host, "twin", 0);
    assert!(then.contains(&restored), "{restored} is not in {then:?}");
    // Both count, each for itself.
    assert_eq!(first_count(&host, "twin"), restored + 1);
    let on = now(&host);
    assert!(on > *then.end() + 50, "{on}");
    assert_eq!(host.info("counter").epoch, original.epoch);
    assert_eq!(host.info("counter").pid, original.pid);

    // A clone of the clone as it is now; then all that they came from goes.
    host.ok(&["clone", "twin", "triplet"]);
    let third = restored_at(&host, "triplet", 0);
    assert!(third > restored, "{third} after {restored}");
    assert_eq!(snapshots(&host, &[]).len(), 1, "making a clone has left a snapshot");
    host.ok(&["rm", "counter", "--snapshot", "then"]);
    host.ok(&["stop", "client", "counter", "client-of-twin", "twin"]);
    host.ok(&["rm", "client", "counter", "client-of-twin", "twin"]);
    let seen = host.lines("triplet").len();
    host.kill("triplet");
    assert_eq!(restored_at(&host, "triplet", seen), third);
    assert_eq!(first_count(&host, "triplet"), third + 1);
    assert_eq!(host.info("triplet").epoch, 4);
}

#[test]
fn a_clone_survives_the_daemon_and_so_do_snapshots() {
    needs_kvm!();
    let mut host = counting_host();
    let then = snapshot(&host, "then");
    let original = host.info("counter");
    host.ok(&["clone", "counter", "twin", "--from", "then"]);
    let restored = restored_at(&host, "twin", 0);
    host.stop_daemon();
    let before = directories(&host);
    // What a daemon leaves that ends while it makes a snapshot.
    let unfinished = host.path().join("districts").join(&original.id).join("snapshots/late.new");
    fs::write(&unfinished, "half").unwrap();
    host.start_daemon();
    wait("the unfinished one is gone", || (!unfinished.exists()).then_some(()));
    for district in ["counter", "twin", "client"] {
        host.running(district);
    }
    assert_eq!(directories(&host), before);
    assert_eq!(snapshots(&host, &[]).len(), 1);
    assert_eq!(first_count(&host, "twin"), restored + 1);
    let seen = host.lines("counter").len();
    host.ok(&["restart", "counter", "--from", "then"]);
    assert!(then.contains(&restored_at(&host, "counter", seen)));
}

#[test]
fn a_damaged_snapshot_is_not_gone_back_to_and_can_be_removed() {
    needs_kvm!();
    let host = counting_host();
    snapshot(&host, "then");
    let path = host.path().join("districts").join(host.info("counter").id).join("snapshots/then");
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(100).unwrap();
    let epoch = host.info("counter").epoch;
    let ran = host.run(&["restart", "counter", "--from", "then"]);
    assert!(ran.err.starts_with("error: snapshot `then`: "), "{ran:?}");
    assert_eq!(host.info("counter").epoch, epoch);
    assert_eq!(snapshots(&host, &[]), []);
    host.ok(&["rm", "counter", "--snapshot", "then"]);
    assert!(!path.exists());
}

#[test]
fn a_memory_of_another_size_is_refused_before_anything_changes() {
    needs_kvm!();
    let host = counting_host();
    host.ok(&["stop", "counter"]);
    let manifest = counting("'on-demand'").replacen("image = 'counter'", "image = 'counter'\nmemory = '8MiB'", 1);
    let manifest = host.manifest(&manifest);
    refused(&host, &["start", &manifest], "district `counter` has checkpoints of a memory of 16MiB\n");
    host.ok(&["start", "counter"]);
    host.running("counter");
}

#[test]
fn a_removed_district_takes_its_snapshots_with_it() {
    needs_kvm!();
    let host = counting_host();
    snapshot(&host, "a");
    snapshot(&host, "b");
    refused(&host, &["rm", "counter"], "district `counter` is running\n");
    assert_eq!(host.run(&["rm", "counter", "client", "--snapshot", "a"]).code(), Some(2));
    let id = host.info("counter").id;
    host.ok(&["stop", "client", "counter"]);
    host.ok(&["rm", "client", "counter"]);
    assert_eq!(directories(&host).iter().filter(|directory| directory.ends_with(&id)).count(), 0);
    assert_eq!(host.ok(&["snapshots"]), "no snapshots\n");
}

#[test]
fn several_copies_at_a_time_do_not_disturb_each_other() {
    needs_kvm!();
    let host = counting_host();
    let clone = |name: &str| host.run(&["clone", "counter", name]);
    let all: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = ["a", "a", "b", "c"].map(|name| scope.spawn(move || clone(name))).into_iter().collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(all.iter().filter(|ran| ran.status.success()).count(), 3, "{all:?}");
    let failed = all.iter().find(|ran| !ran.status.success()).unwrap();
    assert!(failed.err.contains("error: there is a district `a` already\n"), "{failed:?}");
    for name in ["a", "b", "c"] {
        host.running(name);
        restored_at(&host, name, 0);
    }
    wait("nothing is left of the fourth", || (directories(&host).len() == 5).then_some(()));
    assert_eq!(snapshots(&host, &[]), []);
}
