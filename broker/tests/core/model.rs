//! Random districts against the broker: whatever they do, each call ends once, no right grows, no handle comes twice,
//! and the broker's records agree. A failing run prints the seed and the shortest sequence of steps that fails.

mod step;

use std::collections::{BTreeMap, BTreeSet};

use district_broker::{Attach, CheckpointTicket, DistrictId, Effect, GrantTarget, KeyState, Limits, NoCheckpoint};
use district_protocol::frame::{DeliveryKind, FLAG_BADGE, FLAG_ONCE, RequestHeader, RequestKind};
use district_protocol::handle::Handle;
use district_protocol::operation::{directory, supervisor};
use district_protocol::rights::Rights;
use district_protocol::status::{Reason, Status};
use proptest::prelude::*;

use crate::world::*;
use step::{Step, step};

const IDS: [DistrictId; 3] = [A, B, C];

/// A district as the test sees it.
#[derive(Debug, Default)]
struct Player {
    /// Handles that it was given and has not given up, dead ones among them.
    handles: Vec<Handle>,
    replies: Vec<Handle>,
    /// Calls without an outcome, and how the test expects no second.
    open: Vec<Token>,
    publisher: Option<Handle>,
    clock: Option<Handle>,
    supervisor: Option<Handle>,
    /// Calls for checkpoints, with how many had begun when they were made.
    commits: BTreeMap<u64, u64>,
    taken: u64,
    /// Order of the messages from each sender: the sender and its count are in the data, for the test only.
    last_from: BTreeMap<u64, u64>,
}

#[derive(Debug, Default)]
struct Game {
    world: World,
    players: BTreeMap<DistrictId, Player>,
    /// Every handle that was ever issued, to whom.
    issued: BTreeSet<(DistrictId, Handle)>,
    sent: u64,
    ended: u64,
    begun: u64,
    lost: u64,
    /// The checkpoint of each district that is under way, which is also its generation.
    under_way: BTreeMap<DistrictId, (CheckpointTicket, u64)>,
    checkpoints: u64,
}

fn pick<T: Copy>(from: &[T], number: usize) -> Option<T> {
    from.get(number.checked_rem(from.len())?).copied()
}

fn manifest(id: DistrictId) -> Attach {
    let limits = Limits { handles: 60, exports: 8, queued_bytes: 6000, watches: 6, calls: 12, ..Limits::default() };
    let mut attach = Attach { limits, ..friend(id, &IDS) };
    attach.grants.push(grant("clock", GrantTarget::Clock));
    attach.grants.push(grant("checkpoint", GrantTarget::Checkpoint));
    attach
}

impl Game {
    fn new() -> Self {
        let mut game = Game { world: World::new(), ..Game::default() };
        game.world.serial_block = 16;
        for id in IDS {
            game.start(id);
        }
        game
    }

    fn start(&mut self, id: DistrictId) {
        if self.world.is_up(id) {
            return;
        }
        self.players.insert(id, Player::default());
        self.world.start(manifest(id));
        let publisher = self.look_up(id, "publish/channel");
        let clock = self.look_up(id, "clock");
        let supervisor = self.look_up(id, "checkpoint");
        let player = self.player(id);
        player.publisher = publisher;
        player.clock = clock;
        player.supervisor = supervisor;
        // Also in the hands of others, by gifts.
        player.handles.extend(supervisor);
    }

    fn player(&mut self, id: DistrictId) -> &mut Player {
        self.players.entry(id).or_default()
    }

    fn look_up(&mut self, id: DistrictId, path: &str) -> Option<Handle> {
        let completion = self.world.lookup(id, path);
        (completion.status() == Status::Ok).then(|| {
            self.note(id, completion.key());
            completion.key()
        })
    }

    /// A handle was issued: never before, to anybody in any life of this district.
    fn note(&mut self, id: DistrictId, handle: Handle) {
        assert!(handle.serial().is_some());
        assert!(self.issued.insert((id, handle)), "{handle:?} came twice");
    }

    fn gift(&mut self, id: DistrictId, header: RequestHeader, give: Option<(usize, bool, u32)>) -> RequestHeader {
        let Some((number, copy, rights)) = give else { return header };
        let player = &self.players[&id];
        let from = if number % 5 == 0 { &player.replies } else { &player.handles };
        match pick(from, number / 5) {
            Some(handle) => with_keys(header, [district_protocol::frame::KeySlot { handle, rights, copy }]),
            None => header,
        }
    }

    /// Makes a request whose completion comes at once or, for a call, later.
    fn submit(&mut self, id: DistrictId, header: RequestHeader, data: &[u8]) -> Option<Completion> {
        let token = self.world.submit(id, header, data);
        let is_call = header.kind == RequestKind::Call;
        if is_call {
            self.begun += 1;
        }
        let completion = self.world.poll(token);
        match (&completion, is_call) {
            (Some(completion), _) => {
                self.ended += u64::from(is_call);
                self.take_keys(id, completion);
            }
            (None, true) => self.player(id).open.push(token),
            (None, false) => panic!("{header:?} has no completion"),
        }
        self.collect();
        completion
    }

    fn take_keys(&mut self, id: DistrictId, completion: &Completion) {
        let count = usize::from(completion.header.key_count);
        for handle in completion.header.keys.into_iter().take(count) {
            self.note(id, handle);
            self.player(id).handles.push(handle);
        }
    }

    /// Takes what has completed, for all districts.
    fn collect(&mut self) {
        for id in IDS {
            let open = std::mem::take(&mut self.player(id).open);
            for token in open {
                match self.world.poll(token) {
                    Some(completion) => {
                        self.ended += 1;
                        self.check_commit(id, token, &completion);
                        self.take_keys(id, &completion);
                    }
                    None => {
                        assert!(self.world.pending(token));
                        self.player(id).open.push(token);
                    }
                }
            }
        }
    }

    fn deliver(&mut self, id: DistrictId) {
        let Some(delivery) = self.world.take(id) else { return };
        self.player(id).taken += 1;
        let header = delivery.header;
        for handle in &header.keys[..usize::from(header.key_count)] {
            self.note(id, *handle);
            self.player(id).handles.push(*handle);
        }
        if header.kind != DeliveryKind::Message {
            return;
        }
        if header.reply != Handle(0) {
            self.note(id, header.reply);
            self.player(id).replies.push(header.reply);
        }
        let word = |at: usize| u64::from_le_bytes(delivery.data[at..at + 8].try_into().unwrap());
        let (sender, count) = (word(0), word(8));
        let last = self.player(id).last_from.insert(sender, count);
        assert!(last.is_none_or(|last| last < count), "out of order");
        self.collect();
    }

    fn message(&mut self, id: DistrictId) -> Vec<u8> {
        self.sent += 1;
        let sender = u64::from(id.0[0]);
        [sender.to_le_bytes(), self.sent.to_le_bytes()].concat()
    }

    fn step(&mut self, id: DistrictId, step: Step) {
        if matches!(step, Step::Start) {
            return self.start(id);
        }
        if let Step::Pass { time } = step {
            self.world.pass(time);
            return self.collect();
        }
        if !self.world.is_up(id) {
            return;
        }
        let key = |game: &Game, number| pick(&game.players[&id].handles, number).unwrap_or(Handle(3));
        match step {
            Step::Call { key: number, timeout, give } => {
                let header = RequestHeader { timeout, ..call(key(self, number), 100) };
                let header = self.gift(id, header, give);
                let data = self.message(id);
                self.submit(id, header, &data);
            }
            Step::Send { key: number, give } => {
                let header = self.gift(id, send(key(self, number), 100), give);
                let data = self.message(id);
                self.submit(id, header, &data);
            }
            Step::Reply { reply: number, give } => self.reply(id, number, give),
            Step::Notify { key: number, bits } => {
                self.submit(id, request(RequestKind::Notify, key(self, number), bits), b"");
            }
            Step::Cancel { call } => {
                let token = pick(&self.players[&id].open, call).map_or(0, |token| token.token);
                let ended = self.submit(id, argument(RequestKind::Cancel, Handle(0), token), b"");
                assert_eq!(ended.unwrap().header.result, u64::from(token != 0));
            }
            Step::Derive { key: number, rights, flags, timeout } => {
                self.derive(id, key(self, number), rights, flags, timeout);
            }
            Step::Drop { key: number } => {
                let handle = key(self, number);
                self.submit(id, RequestHeader::new(RequestKind::Drop, handle), b"");
                self.player(id).handles.retain(|other| *other != handle);
            }
            Step::Revoke { key: number } => {
                self.submit(id, RequestHeader::new(RequestKind::Revoke, key(self, number)), b"");
            }
            Step::Watch { key: number } => {
                self.submit(id, argument(RequestKind::Watch, key(self, number), 1), b"");
            }
            Step::Guess { handle } => {
                self.submit(id, send(Handle(handle), 1), b"");
            }
            other => self.rare_step(id, other),
        }
    }

    fn rare_step(&mut self, id: DistrictId, step: Step) {
        match step {
            Step::Export | Step::Notifier => {
                let kind = if matches!(step, Step::Export) { RequestKind::Export } else { RequestKind::Notifier };
                let made = self.submit(id, argument(kind, Handle(0), 5), b"").unwrap();
                self.keep_result(id, &made);
            }
            Step::Bind { key, copy } => {
                let handle = pick(&self.players[&id].handles, key).unwrap_or(Handle(3));
                if let Some(publisher) = self.players[&id].publisher {
                    self.submit(id, with_keys(call(publisher, directory::BIND), [slot(handle, copy)]), b"");
                }
            }
            Step::Unbind => {
                if let Some(publisher) = self.players[&id].publisher {
                    self.submit(id, call(publisher, directory::UNBIND), b"");
                }
            }
            Step::LookUp { peer, wait, timeout } => {
                let operation = if wait { directory::LOOKUP_WAIT } else { directory::LOOKUP };
                let path = format!("to-{}", IDS[peer % 3].0[0]);
                let header = RequestHeader { timeout, ..call(Handle::BOOTSTRAP, operation) };
                self.submit(id, header, path.as_bytes());
            }
            Step::Sleep { timeout } => {
                if let Some(clock) = self.players[&id].clock {
                    self.submit(id, RequestHeader { timeout, ..call(clock, 2) }, &9_u64.to_le_bytes());
                }
            }
            Step::Checkpoint { timeout } => self.commit(id, timeout),
            Step::CheckpointBegins if !self.under_way.contains_key(&id) => {
                self.checkpoints += 1;
                let ticket = self.world.checkpoint_begins(id);
                self.under_way.insert(id, (ticket, self.checkpoints));
            }
            Step::Checkpointed { fails } => {
                if let Some((ticket, generation)) = self.under_way.remove(&id) {
                    self.world.checkpointed(ticket, if fails { Err(NoCheckpoint::Failed) } else { Ok(generation) });
                    self.collect();
                }
            }
            Step::Deliver => self.deliver(id),
            Step::Stall => {
                self.world.core.deliver(id, |_, _| false);
            }
            Step::Crash { unread, reason } => {
                self.lost += self.players[&id].open.len() as u64;
                let unread = unread.min(self.players[&id].taken);
                let reason = if reason { Reason::PeerRestart } else { Reason::Unreachable };
                self.players.remove(&id);
                self.world.end(id, reason, unread);
                self.collect();
            }
            _ => {}
        }
    }

    fn commit(&mut self, id: DistrictId, timeout: u64) {
        let Some(supervisor) = self.players[&id].supervisor else { return };
        let header = RequestHeader { timeout, ..call(supervisor, supervisor::CHECKPOINT) };
        if self.submit(id, header, b"").is_none() {
            let token = self.players[&id].open.last().unwrap().token;
            let begun = self.checkpoints;
            self.player(id).commits.insert(token, begun);
            assert!(self.world.wanted.contains(&id), "nobody will answer");
        }
    }

    /// What is answered with a generation is in it.
    fn check_commit(&mut self, id: DistrictId, token: Token, completion: &Completion) {
        if let Some(begun) = self.player(id).commits.remove(&token.token)
            && completion.status() == Status::Ok
        {
            assert!(completion.header.result > begun, "a checkpoint that began before the call");
        }
    }

    fn reply(&mut self, id: DistrictId, number: usize, give: Option<(usize, bool, u32)>) {
        let Some(handle) = pick(&self.players[&id].replies, number) else { return };
        let header = self.gift(id, reply(handle, 1), give);
        let status = self.submit(id, header, b"").unwrap().status();
        if matches!(status, Status::Ok | Status::Broken(_)) {
            self.player(id).replies.retain(|other| *other != handle);
        }
    }

    fn derive(&mut self, id: DistrictId, parent: Handle, rights: u32, flags: u8, timeout: u64) {
        let rights_of = |game: &Game, handle| {
            let keys = game.world.view(id).keys;
            keys.into_iter().find(|key| key.handle == handle && key.state == KeyState::Live).map(|key| key.rights)
        };
        let held = rights_of(self, parent);
        // Mostly what it may have, sometimes more.
        let mut wanted = if rights.is_multiple_of(4) { rights } else { rights & held.unwrap_or_default().0 };
        if flags & FLAG_ONCE != 0 {
            wanted &= !(Rights::DERIVE.0 | Rights::DUPLICATE.0);
        }
        let header = RequestHeader {
            operation: u64::from(wanted),
            flags,
            timeout,
            argument: u64::from(flags & FLAG_BADGE),
            ..RequestHeader::new(RequestKind::Derive, parent)
        };
        let made = self.submit(id, header, b"").unwrap();
        if made.status() == Status::Ok {
            assert!(held.unwrap().contains(Rights(wanted)), "a right was made");
            assert_eq!(rights_of(self, Handle(made.header.result)), Some(Rights(wanted)));
        }
        self.keep_result(id, &made);
    }

    fn keep_result(&mut self, id: DistrictId, made: &Completion) {
        if made.status() == Status::Ok {
            let handle = Handle(made.header.result);
            self.note(id, handle);
            self.player(id).handles.push(handle);
        }
    }

    /// Everybody goes; then every call has had its one end, and nothing is left.
    fn finish(mut self) {
        let open: u64 = IDS.iter().map(|id| self.player(*id).open.len() as u64).sum();
        assert_eq!(self.begun, self.ended + self.lost + open, "calls begun, and ended, lost or open");
        for id in IDS {
            if self.world.is_up(id) {
                let unread = self.players[&id].taken;
                self.step(id, Step::Crash { unread, reason: true });
            }
        }
        assert_eq!(self.begun, self.ended + self.lost, "each call has one end");
        assert_eq!(self.world.core.stored_records(), 0);
        assert_eq!(self.world.core.next_deadline(), None);
    }
}

fn steps(count: usize) -> impl Strategy<Value = Vec<(usize, Step)>> {
    prop::collection::vec((0_usize..3, step()), count)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn c31_c26_c13_c10_every_call_ends_once_under_random_crashes(steps in steps(400)) {
        let mut game = Game::new();
        for (district, step) in steps {
            game.step(IDS[district], step);
        }
        game.finish();
    }

    /// Frames of pure noise, and of almost none: each gets one completion, and the broker stays whole.
    #[test]
    fn c42_frames_of_noise(frames in prop::collection::vec(
        (prop::collection::vec(any::<u8>(), 0..200), any::<bool>(), 0_u16..14, 0_u8..6),
        1..60,
    )) {
        let mut world = World::with(&[A, B]);
        for (number, (mut bytes, shaped, kind, keys)) in (1_u64..).zip(frames) {
            if shaped && bytes.len() > 128 {
                bytes[0..2].copy_from_slice(&kind.to_le_bytes());
                bytes[2] = keys;
                bytes[3] &= 7;
                let length = u32::try_from(bytes.len() - 128).unwrap();
                bytes[4..8].copy_from_slice(&length.to_le_bytes());
                bytes[48..64].fill(0);
            }
            if bytes.len() >= 16 {
                bytes[8..16].copy_from_slice(&number.to_le_bytes());
            }
            let token = world.submit_bytes(A, if bytes.len() >= 16 { number } else { 0 }, bytes);
            world.poll(token);
        }
        prop_assert_eq!(world.view(B).keys.len(), 1);
    }
}

/// The same inputs give the same effects.
#[test]
fn the_broker_is_deterministic() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let steps = steps(3000).new_tree(&mut runner).unwrap().current();
    let run = |steps: Vec<(usize, Step)>| {
        let mut game = Game::new();
        for (district, step) in steps {
            game.step(IDS[district], step);
        }
        (format!("{:?}", game.world.completed), game.world.core.inspect())
    };
    let first = run(steps.clone());
    assert_eq!(first, run(steps));
}

#[test]
fn an_effect_says_what_it_is() {
    let mut world = World::with(&[A]);
    let bytes = RequestHeader::new(RequestKind::Identify, Handle::BOOTSTRAP).encode().to_vec();
    world.core.request(0, A, district_broker::RawRequest { chain: 9, capacity: 0, bytes });
    let effects: Vec<Effect> = world.core.drain_effects().collect();
    assert!(matches!(effects[..], [Effect::Complete { district: A, chain: 9, .. }]));
}
