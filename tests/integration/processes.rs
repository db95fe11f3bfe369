//! Vmm processes beyond the districts in them: what they may take of the host, and which of them are left when daemons
//! come and go.

use std::collections::BTreeSet;
use std::fs;

use rustix::process::Signal;

use crate::restart::{COUNTING, counted_beyond};
use crate::signals::is_alive;
use crate::support::{Host, needs_kvm, wait};

/// The processes that the daemon has started and that are of no district.
fn in_stock(host: &Host) -> BTreeSet<u32> {
    let threads = fs::read_dir(format!("/proc/{}/task", host.daemon_id())).unwrap().flatten();
    let children = threads.map(|thread| fs::read_to_string(thread.path().join("children")).unwrap_or_default());
    let children = children.collect::<Vec<_>>().join(" ");
    let of_districts: BTreeSet<_> = host.list().iter().filter_map(|info| info.pid).collect();
    &children.split_whitespace().map(|pid| pid.parse().unwrap()).collect() - &of_districts
}

#[test]
fn one_vmm_process_is_in_stock_and_becomes_the_next_districts() {
    needs_kvm!();
    let mut host = Host::with_daemon();
    let one = || wait("a vmm process is in stock", || in_stock(&host).first().copied());
    let mut names = (0..).map(|number| format!("a{number}"));
    // A process is seen a moment before the daemon has it in stock.
    let first = wait("a district has the one in stock", || {
        let (spare, name) = (one(), names.next()?);
        host.start(&format!("[districts.{name}]\nimage = 'idle'"));
        (host.running(&name).pid == Some(spare)).then_some(spare)
    });
    let second = one();
    wait("there is no other", || (in_stock(&host).len() == 1).then_some(()));
    // One that has died meanwhile is not handed out.
    crate::signals::send(second, Signal::KILL);
    wait("its end", || (!is_alive(second)).then_some(()));
    host.start("[districts.b]\nimage = 'idle'");
    let b = host.running("b");
    assert_ne!(b.pid, Some(second));
    assert_eq!((b.epoch, b.restarts), (1, 0));
    let third = one();
    host.end_daemon(Signal::KILL);
    wait("its end", || (!is_alive(third)).then_some(()));
    assert!(is_alive(first));
}

#[test]
fn a_vmm_process_that_does_not_listen_does_not_escape_the_next_daemon() {
    needs_kvm!();
    let mut host = Host::with(COUNTING);
    counted_beyond(&host, 3);
    let before = host.info("counter");
    host.end_daemon(Signal::KILL);
    // As one could that somebody has broken into.
    fs::remove_file(host.path().join("run").join(format!("{}.sock", before.id))).unwrap();
    host.start_daemon();
    let after = host.running("counter");
    assert!(!is_alive(before.pid.unwrap()));
    assert_eq!((after.epoch, after.id), (before.epoch + 1, before.id));
}

#[test]
fn what_a_vmm_process_may_take_of_the_host_is_limited() {
    needs_kvm!();
    let host = Host::with("[districts.a]\nimage = 'idle'\nmemory = '8MiB'");
    let pid = host.running("a").pid.unwrap();
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let limit = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        let numbers: Vec<_> = line.split_whitespace().take(2).map(|number| number.parse::<u64>().unwrap()).collect();
        assert_eq!(numbers[0], numbers[1], "{name}");
        numbers[0]
    };
    assert_eq!(limit("Max data size"), (8 + 32) << 20);
    assert_eq!(limit("Max open files"), 64);
    assert_eq!(limit("Max core file size"), 0);
    let score = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    assert_eq!(score.trim(), "500");
}

#[test]
fn a_district_that_a_running_one_may_call_is_not_removed() {
    needs_kvm!();
    let host = Host::with(COUNTING);
    host.ok(&["stop", "counter"]);
    let refused = host.run(&["remove", "counter"]);
    assert_eq!(refused.code(), Some(1));
    assert!(refused.err.contains("district `client` runs and has a grant to `counter`"), "{}", refused.err);
    host.ok(&["stop", "client"]);
    host.ok(&["remove", "counter"]);
}
