//! Programs that are restored right before any step that they take: each call ends once, with what is true, and nothing of
//! an old life is sent in a new one.

mod program;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::string::String;
use std::time::Duration;
use std::vec::Vec;

use district_protocol::boot::StartReason;
use district_protocol::frame::{CompletionHeader, RequestHeader, RequestKind};
use district_protocol::handle::Handle;
use district_protocol::layout::WINDOW_SIZE_MIN;
use district_protocol::operation::{clock, directory, log};
use district_protocol::status::{Reason, Status};
use proptest::prelude::*;

use super::{fresh, message};
use crate::checkpoint::{self, Commit};
use crate::machine::{Checkpoint, Request, Wires, handle, host, no_more_restores, restore_at, steps, with_boot};
use crate::restart::{self, Restart};
use crate::{Clock, Directory, Error, Event, Key, Rng, Ticket, TicketId, log as write_log, next_event, publish, time};
use program::{Program, restores};

/// Answers with the data that came, and a number that says in which epoch.
const ECHO: u64 = 100;
/// As [`ECHO`], with a key.
const ECHO_KEY: u64 = 101;

/// A broker that knows whose handles are of which epoch.
#[derive(Debug, Default)]
struct Broker {
    issued: BTreeMap<Handle, u64>,
    epoch: u64,
    serial: u64,
    logged: Vec<String>,
}

impl Broker {
    fn handle(&mut self) -> Handle {
        with_boot(|boot| self.epoch = boot.epoch);
        self.serial += 1;
        let handle = handle(self.serial);
        self.issued.insert(handle, self.epoch);
        handle
    }

    fn check(&mut self, header: &RequestHeader) {
        with_boot(|boot| self.epoch = boot.epoch);
        assert!(header.kind != RequestKind::Drop || header.handle != Handle(0), "a drop of no key");
        let slots = header.keys.iter().flatten().map(|slot| slot.handle);
        for used in slots.chain([header.handle]).filter(|used| used.0 != 0 && *used != Handle::BOOTSTRAP) {
            assert_eq!(self.issued.get(&used), Some(&self.epoch), "a handle of another life: {header:?}");
        }
    }

    fn answer(&mut self, wires: &mut Wires, request: &Request) {
        let header = &request.header;
        self.check(header);
        let result = |result| CompletionHeader { result, ..CompletionHeader::new(Status::Ok, 0) };
        let key =
            |broker: &mut Broker| CompletionHeader { key_count: 1, keys: [broker.handle(); 4], ..result(broker.epoch) };
        match (header.kind, header.operation) {
            (RequestKind::Call, ECHO) => wires.complete(request, &result(self.epoch), &request.data),
            (RequestKind::Call, ECHO_KEY) => {
                let header = key(self);
                wires.complete(request, &header, &request.data);
            }
            (RequestKind::Call, directory::LOOKUP | directory::LOOKUP_WAIT) if header.handle == Handle::BOOTSTRAP => {
                let header = key(self);
                wires.complete(request, &header, &[]);
            }
            (RequestKind::Send, log::WRITE) => {
                self.logged.push(String::from_utf8(request.data.clone()).unwrap());
                wires.ok(request, 0, &[]);
            }
            (RequestKind::Export | RequestKind::Notifier | RequestKind::Derive, _) => {
                let made = self.handle();
                wires.ok(request, made.0, &[]);
            }
            // Commits and the clock among them.
            _ => wires.ok(request, self.epoch, &[]),
        }
    }
}

/// What a program does next. Numbers choose among what it has.
#[derive(Debug, Clone, Copy)]
enum Op {
    Call { key: usize, len: usize },
    Fetch,
    Start { key: usize, len: usize },
    Finish { ticket: usize },
    Poll { ticket: usize },
    Forget { ticket: usize },
    Give { key: usize },
    Derive { key: usize },
    DropKey { key: usize },
    Export,
    Arrive { len: usize },
    Next,
    Answer,
    Log,
    Publish,
    Commit,
    BeginCommit,
    ClockSleep,
    Sleep,
    Draw,
}

fn op() -> impl Strategy<Value = Op> {
    let any = any::<usize>;
    let len = || prop_oneof![Just(0_usize), 1_usize..3000];
    prop_oneof![
        (any(), len()).prop_map(|(key, len)| Op::Call { key, len }),
        Just(Op::Fetch),
        (any(), len()).prop_map(|(key, len)| Op::Start { key, len }),
        any().prop_map(|ticket| Op::Finish { ticket }),
        any().prop_map(|ticket| Op::Poll { ticket }),
        any().prop_map(|ticket| Op::Forget { ticket }),
        any().prop_map(|key| Op::Give { key }),
        any().prop_map(|key| Op::Derive { key }),
        any().prop_map(|key| Op::DropKey { key }),
        Just(Op::Export),
        len().prop_map(|len| Op::Arrive { len }),
        Just(Op::Next),
        Just(Op::Next),
        Just(Op::Next),
        Just(Op::Answer),
        Just(Op::Log),
        Just(Op::Publish),
        Just(Op::Commit),
        Just(Op::BeginCommit),
        Just(Op::ClockSleep),
        Just(Op::Sleep),
        Just(Op::Draw),
    ]
}

/// A key, and how often the district had been restored when it was asked for.
type Held = (Key, u64);

/// Runs a program that is restored right before each of these steps; the steps that it took.
fn run(ops: &[Op], eager: bool, restore_before: &[u64]) -> u64 {
    let mut program = Program::new(eager);
    let first = steps();
    for at in restore_before {
        restore_at(first + at + 1, Checkpoint { entropy: *at });
    }
    let mut started = Vec::new();
    for op in ops {
        let (before, was_started) = (restores(), host(|host| host.starts) > 0);
        program.step(*op);
        started.extend((before..restores()).map(|_| was_started));
    }
    let count = steps() - first;
    no_more_restores();
    program.end(&started);
    count
}

const EVERYTHING: [Op; 30] = [
    Op::Call { key: 0, len: 5 },
    Op::Fetch,
    Op::Call { key: 1, len: 3000 },
    Op::Start { key: 1, len: 9 },
    Op::Start { key: 0, len: 9 },
    Op::Export,
    Op::Arrive { len: 2500 },
    Op::Arrive { len: 0 },
    Op::Next,
    Op::Answer,
    Op::Log,
    Op::Publish,
    Op::Draw,
    Op::BeginCommit,
    Op::Commit,
    Op::Poll { ticket: 0 },
    Op::Next,
    Op::Derive { key: 0 },
    Op::Give { key: 1 },
    Op::DropKey { key: 0 },
    Op::Call { key: 1, len: 1 },
    Op::ClockSleep,
    Op::Sleep,
    Op::Draw,
    Op::Start { key: 0, len: 1 },
    Op::Forget { ticket: 0 },
    Op::Finish { ticket: 0 },
    Op::Next,
    Op::Next,
    Op::Log,
];

#[test]
fn c03_a_restore_before_any_step() {
    const { assert!(clock::SLEEP == 2 && directory::LOOKUP == 1) };
    for eager in [false, true] {
        let count = run(&EVERYTHING, eager, &[]);
        assert!(count > 1000, "{count}");
        for at in 0..count {
            run(&EVERYTHING, eager, &[at]);
        }
    }
}

#[test]
fn c03_a_restore_right_after_a_restore() {
    let ops = &EVERYTHING[..6];
    let count = run(ops, true, &[]);
    for at in (0..count).step_by(7) {
        for after in (1..600).step_by(31) {
            run(ops, true, &[at, at + after]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// Random programs, each run with a restore before every so many-th of its steps, with another start each time, and
    /// with several restores in one run.
    #[test]
    fn c03_random_programs_end_every_call_once(
        ops in prop::collection::vec(op(), 1..30),
        eager in any::<bool>(),
        offset in 0_u64..20,
        gaps in prop::collection::vec(1_u64..900, 1..6),
    ) {
        let count = run(&ops, eager, &[]);
        for at in (offset..count).step_by(20) {
            run(&ops, eager, &[at]);
        }
        let several: Vec<u64> = gaps.iter().scan(0, |at, gap| { *at += gap; Some(*at) }).collect();
        run(&ops, eager, &several);
    }
}

#[test]
fn the_hook_is_told_once_and_programs_can_count() {
    let mut program = Program::new(false);
    assert_eq!(restart::count(), 0);
    host(|host| host.disconnect(true));
    host(|host| host.disconnect(true));
    assert_eq!((restart::count(), program.hook.get()), (1, (3, 1)));
    program.step(Op::Call { key: 0, len: 1 });
    assert_eq!((restart::count(), program.hook.get()), (1, (3, 1)));
    // A new broker is no restart.
    host(|host| host.disconnect(false));
    program.step(Op::Call { key: 0, len: 1 });
    assert_eq!(restart::count(), 1);
    assert_eq!(restart::current().reason, Some(StartReason::BrokerRestart));
    // One hook takes another's place, also from inside of it.
    let calls = Rc::new(Cell::new(0));
    let (outer, inner) = (calls.clone(), calls.clone());
    restart::on_restart(move |_| {
        outer.set(outer.get() + 1);
        let inner = inner.clone();
        restart::on_restart(move |_| inner.set(inner.get() + 100));
    });
    for expected in [1, 101, 201] {
        host(|host| host.disconnect(true));
        time::sleep(Duration::from_millis(1));
        assert_eq!(calls.get(), expected);
    }
}

#[test]
fn commits_end_by_their_outcome() {
    let next: Rc<RefCell<Vec<Status>>> = Rc::default();
    let statuses = next.clone();
    fresh(WINDOW_SIZE_MIN, move |wires, request| {
        if request.data == b"checkpoint" {
            let header =
                CompletionHeader { key_count: 1, keys: [handle(5); 4], ..CompletionHeader::new(Status::Ok, 0) };
            return wires.complete(&request, &header, &[]);
        }
        if request.header.kind == RequestKind::Call {
            match statuses.borrow_mut().pop() {
                Some(status) => wires.fail(&request, status),
                None => wires.ok(&request, 77, &[]),
            }
        }
    });
    assert_eq!(checkpoint::commit(), Ok(Commit::Committed { generation: 77 }));
    for (status, error) in [
        (Status::WouldBlock, Error::WouldBlock),
        (Status::Denied(crate::Argument::OPERATION), Error::Denied(crate::Argument::OPERATION)),
    ] {
        next.borrow_mut().push(status);
        assert_eq!(checkpoint::commit(), Err(error));
    }
    // What the broker has lost is asked for again.
    next.borrow_mut().push(Status::Unknown(Reason::Unreachable));
    assert_eq!(checkpoint::commit(), Ok(Commit::Committed { generation: 77 }));
    next.borrow_mut().push(Status::Unknown(Reason::Unreachable));
    let pending = checkpoint::begin().unwrap();
    assert_eq!(pending.wait(), Err(Error::Unknown(Reason::Unreachable)));
}
