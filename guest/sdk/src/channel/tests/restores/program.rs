//! A program that does at random whatever a program can, and keeps account of it.

use super::*;

struct UnderWay {
    ticket: Ticket,
    data: Vec<u8>,
    since: u64,
    key_since: Option<u64>,
}

/// A program, and what it has. It knows, as no real one does, when it was restored.
pub(super) struct Program {
    keys: Vec<Held>,
    tickets: Vec<UnderWay>,
    commits: Vec<(checkpoint::Pending, u64)>,
    messages: Vec<(crate::Message, u64)>,
    announced: Vec<TicketId>,
    losses: u64,
    arrived: u64,
    drawn: Vec<u64>,
    /// The epoch that the hook was last told of, and how often it was.
    pub(super) hook: Rc<Cell<(u64, u64)>>,
    broker: Rc<RefCell<Broker>>,
}

pub(super) fn restores() -> u64 {
    host(|host| host.restores)
}

pub(super) fn bytes(len: usize, seed: u64) -> Vec<u8> {
    (0..len as u64).map(|at| (at * 7 + seed + 1).to_le_bytes()[0]).collect()
}

fn pick<T>(from: &[T], number: usize) -> Option<usize> {
    number.checked_rem(from.len())
}

impl Program {
    pub(super) fn new(eager: bool) -> Program {
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

    pub(super) fn step(&mut self, op: Op) {
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
    pub(super) fn end(mut self, started_before: &[bool]) {
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
