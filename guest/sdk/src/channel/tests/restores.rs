//! Programs that are restored right before any step that they take: each call ends once, with what is true, and nothing of
//! an old life is sent in a new one.

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

struct UnderWay {
    ticket: Ticket,
    data: Vec<u8>,
    since: u64,
    key_since: Option<u64>,
}

/// A program, and what it has. It knows, as no real one does, when it was restored.
struct Program {
    keys: Vec<Held>,
    tickets: Vec<UnderWay>,
    commits: Vec<(checkpoint::Pending, u64)>,
    messages: Vec<(crate::Message, u64)>,
    announced: Vec<TicketId>,
    losses: u64,
    arrived: u64,
    drawn: Vec<u64>,
    /// The epoch that the hook was last told of, and how often it was.
    hook: Rc<Cell<(u64, u64)>>,
    broker: Rc<RefCell<Broker>>,
}

fn restores() -> u64 {
    host(|host| host.restores)
}

fn bytes(len: usize, seed: u64) -> Vec<u8> {
    (0..len as u64).map(|at| (at * 7 + seed + 1).to_le_bytes()[0]).collect()
}

fn pick<T>(from: &[T], number: usize) -> Option<usize> {
    number.checked_rem(from.len())
}

impl Program {
    fn new(eager: bool) -> Program {
        let broker = Rc::new(RefCell::new(Broker::default()));
        let answering = broker.clone();
        fresh(WINDOW_SIZE_MIN, move |wires, request| answering.borrow_mut().answer(wires, &request));
        host(|host| host.eager = eager);
        let hook = Rc::new(Cell::new((1, 0)));
        let told = hook.clone();
        restart::on_restart(move |restart| {
            assert_eq!((restart.reason, restart.generation), (Some(StartReason::Crash), restart.epoch - 1));
            let (epoch, count) = told.get();
            assert!(restart.epoch > epoch, "told twice");
            told.set((restart.epoch, count + 1));
            // It may use the library, which may be interrupted.
            let outcome = Key::bootstrap().call(ECHO, &[1]).wait();
            assert!(matches!(outcome, Ok(_) | Err(Error::Unknown(Reason::SelfRestart))), "{outcome:?}");
        });
        Program {
            keys: Vec::new(),
            tickets: Vec::new(),
            commits: Vec::new(),
            messages: Vec::new(),
            announced: Vec::new(),
            losses: 0,
            arrived: 0,
            drawn: Vec::new(),
            hook,
            broker,
        }
    }

    /// Something of this epoch was handed out: the hook must have run before.
    fn seen(&self, epoch: u64) {
        assert!(self.hook.get().0 >= epoch, "the program sees what the hook has not been told of");
    }

    /// An error that only a restore explains: during the request, or between getting the key and using it.
    fn excuse(&self, error: Error, since: u64, key_since: Option<u64>) {
        let now = restores();
        match error {
            Error::Unknown(Reason::SelfRestart) => assert!(now > since, "nothing happened"),
            Error::Broken(Reason::SelfRestart) => {
                assert!(key_since.is_some_and(|key_since| now > key_since), "the key is not so old");
            }
            other => panic!("{other:?}"),
        }
    }

    fn check_echo(&self, outcome: Result<crate::Reply, Error>, data: &[u8], since: u64, key_since: Option<u64>) {
        match outcome {
            Ok(reply) => {
                assert!(reply.data == data, "not what was sent");
                self.seen(reply.result);
            }
            Err(error) => self.excuse(error, since, key_since),
        }
    }

    fn keep(&mut self, key: Result<Key, Error>, since: u64, key_since: Option<u64>) {
        match key {
            // Asked for before a restore, it may be of the life before.
            Ok(key) => self.keys.push((key, since)),
            Err(error) => self.excuse(error, since, key_since),
        }
    }

    /// A call through a key that it has, or the bootstrap key.
    fn key(&self, number: usize) -> (Key, Option<u64>) {
        match pick(&self.keys, number).filter(|_| !number.is_multiple_of(3)) {
            None => (Key::bootstrap(), None),
            Some(at) => {
                (Key::received(self.keys[at].0.handle(), self.keys[at].0.name().connection), Some(self.keys[at].1))
            }
        }
    }

    fn step(&mut self, op: Op) {
        let since = restores();
        match op {
            Op::Call { key, len } => {
                let (key, key_since) = self.key(key);
                let data = bytes(len, len as u64);
                let outcome = key.call(ECHO, &data).wait();
                // It is still in the list.
                core::mem::forget(key);
                self.check_echo(outcome, &data, since, key_since);
            }
            Op::Fetch => {
                let outcome = Key::bootstrap().call(ECHO_KEY, &[5]).wait();
                self.keep(outcome.and_then(crate::Reply::into_key), since, None);
            }
            Op::Start { key, len } => {
                let (key, key_since) = self.key(key);
                let data = bytes(len, 3);
                let started = key.call(ECHO, &data).start();
                core::mem::forget(key);
                match started {
                    Ok(ticket) => self.tickets.push(UnderWay { ticket, data, since, key_since }),
                    Err(Error::WouldBlock) => {}
                    Err(error) => self.excuse(error, since, key_since),
                }
            }
            Op::Finish { ticket } => {
                if let Some(at) = pick(&self.tickets, ticket) {
                    let UnderWay { ticket, data, since, key_since } = self.tickets.swap_remove(at);
                    self.check_echo(ticket.wait(), &data, since, key_since);
                }
            }
            Op::Poll { ticket } => {
                if let Some(at) = pick(&self.tickets, ticket)
                    && let Some(outcome) = self.tickets[at].ticket.poll()
                {
                    let mut ended = self.tickets.swap_remove(at);
                    assert!(ended.ticket.poll().is_none(), "it ends twice");
                    self.check_echo(outcome, &ended.data, ended.since, ended.key_since);
                }
            }
            Op::Forget { ticket } => {
                if let Some(at) = pick(&self.tickets, ticket) {
                    self.tickets.swap_remove(at);
                }
            }
            other => self.other_step(other, since),
        }
    }

    fn other_step(&mut self, op: Op, since: u64) {
        match op {
            Op::Give { key } => {
                if let Some(at) = pick(&self.keys, key) {
                    let (key, key_since) = self.keys.swap_remove(at);
                    let outcome = Key::bootstrap().call(ECHO, &[9]).give(key).wait();
                    self.check_echo(outcome, &[9], since, Some(key_since));
                }
            }
            Op::Derive { key } => {
                if let Some(at) = pick(&self.keys, key) {
                    let key_since = self.keys[at].1;
                    let child = self.keys[at].0.derive().make();
                    self.keep(child, since, Some(key_since));
                }
            }
            Op::DropKey { key } => {
                if let Some(at) = pick(&self.keys, key) {
                    self.keys.swap_remove(at);
                }
            }
            Op::Export => {
                let made = crate::export(1);
                self.keep(made, since, None);
            }
            Op::Arrive { len } => self.arrive(len),
            Op::Next => self.next(),
            Op::Answer => {
                if let Some((message, message_since)) = self.messages.pop() {
                    match message.reply(1, &message.data) {
                        Ok(()) => {}
                        Err(error) => self.excuse(error, since, Some(message_since)),
                    }
                }
            }
            Op::Publish => {
                let made = publish("name", 7);
                assert!(made.is_ok(), "{made:?}");
                self.keep(made, since, None);
            }
            Op::Commit => self.check_commit(checkpoint::commit(), since),
            Op::BeginCommit => match checkpoint::begin() {
                Ok(pending) => self.commits.push((pending, since)),
                Err(error) => assert_eq!(error, Error::WouldBlock),
            },
            Op::ClockSleep => {
                let slept =
                    Directory::bootstrap().lookup("clock").and_then(|key| Clock(key).sleep(Duration::from_secs(1)));
                if let Err(error) = slept {
                    self.excuse(error, since, Some(since));
                }
            }
            Op::Log => write_log!("line"),
            Op::Sleep => time::sleep(Duration::from_millis(1)),
            Op::Draw => self.drawn.push(Rng.number()),
            _ => {}
        }
    }

    fn check_commit(&self, commit: Result<Commit, Error>, since: u64) {
        match commit.unwrap() {
            Commit::Committed { generation } => self.seen(generation),
            Commit::Restored(Restart { generation, .. }) => assert!(restores() > since && generation >= since),
        }
    }

    fn arrive(&mut self, len: usize) {
        if host(|host| host.starts) == 0 {
            return;
        }
        self.arrived += 1;
        let number = self.arrived;
        let (reply, key, epoch) = {
            let mut broker = self.broker.borrow_mut();
            (broker.handle(), broker.handle(), broker.epoch)
        };
        // Every other sender wants no answer.
        let mut header = message(number, if number.is_multiple_of(2) { 0 } else { reply.0 });
        header.badge = epoch;
        header.key_count = 1;
        header.keys[0] = key;
        host(|host| host.wires.deliver(&header, &bytes(len, number)));
    }

    fn next(&mut self) {
        let since = restores();
        match next_event(Some(Duration::from_millis(1))) {
            Some(Event::Message(mut message)) => {
                self.seen(message.badge);
                assert!(message.data == bytes(message.data.len(), message.operation), "not what arrived");
                let since = message.badge - 1;
                self.keys.extend(message.keys.drain(..).map(|key| (key, since)));
                self.messages.push((message, since));
            }
            Some(Event::Lost(reason)) => {
                assert_eq!(reason, Reason::SelfRestart);
                self.losses += 1;
                self.seen(self.losses + 1);
            }
            Some(Event::Finished(id)) => {
                assert!(!self.announced.contains(&id), "announced twice");
                self.announced.push(id);
                if let Some(at) = self.commits.iter().position(|(pending, _)| pending.id() == id) {
                    let (mut pending, since) = self.commits.swap_remove(at);
                    self.check_commit(pending.poll().unwrap(), since);
                }
            }
            None => {}
            other => panic!("{other:?} since {since}"),
        }
    }

    /// Everything ends, and the program is told of all that has happened.
    fn end(mut self, started_before: &[bool]) {
        while !self.tickets.is_empty() {
            self.step(Op::Finish { ticket: 0 });
        }
        for (pending, since) in core::mem::take(&mut self.commits) {
            let commit = pending.wait();
            self.check_commit(commit, since);
        }
        // One loss is told for however many restores nobody looked between.
        self.next();
        self.next();
        self.next();
        let outcome = Key::bootstrap().call(ECHO, &[2]).wait();
        if let Ok(reply) = &outcome {
            assert_eq!(reply.data, [2]);
        }
        let restores = restores();
        // Two that come so quickly that the library has not looked in between are one.
        let (epoch, told) = self.hook.get();
        assert_eq!((epoch, restart::count()), (restores + 1, told));
        assert!(told <= restores && told >= restores.min(1));
        assert!(self.losses <= restores);
        if started_before.first() == Some(&true) {
            assert!(self.losses > 0, "nobody was told");
        }
        let drawn = self.drawn.len();
        self.drawn.sort_unstable();
        self.drawn.dedup();
        assert_eq!(self.drawn.len(), drawn);
        assert!(self.broker.borrow().logged.iter().all(|line| line == "line"));
    }
}

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
