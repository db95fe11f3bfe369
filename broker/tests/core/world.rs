//! Districts that are driven by a test, and the shell between them and the broker.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use district_broker::{
    Attach, BindingRecord, Bootstrap, CheckpointTicket, Core, Delivered, DistrictId, Effect, Grant, GrantTarget,
    Limits, NoCheckpoint, RawRequest,
};
use district_protocol::frame::{CompletionHeader, DeliveryHeader, DeliveryKind, KeySlot, RequestHeader, RequestKind};
use district_protocol::handle::Handle;
use district_protocol::operation::directory;
use district_protocol::rights::Rights;
use district_protocol::status::{Reason, Status};

pub const A: DistrictId = DistrictId([0xa; 16]);
pub const B: DistrictId = DistrictId([0xb; 16]);
pub const C: DistrictId = DistrictId([0xc; 16]);

/// Rights of an entry that its exporter has.
pub const ENTRY: Rights = Rights(
    Rights::CALL.0
        | Rights::SEND_KEYS.0
        | Rights::DUPLICATE.0
        | Rights::TRANSFER.0
        | Rights::DERIVE.0
        | Rights::REVOKE.0
        | Rights::WATCH.0,
);

pub const CAPACITY: u32 = 65_536;

#[derive(Debug, Clone)]
pub struct Completion {
    pub header: CompletionHeader,
    pub data: Vec<u8>,
}

impl Completion {
    pub fn status(&self) -> Status {
        self.header.status
    }

    pub fn key(&self) -> Handle {
        assert_eq!(self.header.key_count, 1);
        self.header.keys[0]
    }
}

#[derive(Debug, Clone)]
pub struct Delivery {
    pub header: DeliveryHeader,
    pub data: Vec<u8>,
}

/// A request that was made, by its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    pub district: DistrictId,
    pub token: u64,
}

/// What outlives a district's sessions.
#[derive(Debug, Default)]
struct Durable {
    epoch: u64,
    next_serial: u64,
    epoch_first_serial: u64,
}

#[derive(Debug, Default)]
struct Guest {
    /// Chains in use: those of requests without completion.
    chains: HashMap<u16, u64>,
    next_chain: u16,
    completions: HashMap<u64, Completion>,
    consumed: u64,
}

#[derive(Debug, Default)]
pub struct World {
    pub core: Core,
    pub now: u64,
    durable: BTreeMap<DistrictId, Durable>,
    guests: BTreeMap<DistrictId, Guest>,
    next_token: u64,
    pub serial_block: u64,
    pub logged: Vec<(DistrictId, String)>,
    pub bound: BTreeMap<(DistrictId, Arc<str>), BindingRecord>,
    pub completed: VecDeque<Token>,
    pub capacity: Option<u32>,
    /// Districts of which the broker wants a checkpoint, in the order in which it said so.
    pub wanted: Vec<DistrictId>,
}

/// A district with nothing in its directory.
pub fn plain(district: DistrictId) -> Attach {
    Attach {
        district,
        name: Arc::from(format!("{}", district.0[0])),
        epoch: 0,
        serials: 0..0,
        epoch_first_serial: 0,
        limits: Limits::default(),
        grants: Vec::new(),
        publishes: Vec::new(),
        bootstrap: Bootstrap::OwnDirectory,
    }
}

pub fn service(owner: DistrictId, name: &str) -> GrantTarget {
    GrantTarget::Service { owner, name: Arc::from(name) }
}

pub fn grant(name: &str, target: GrantTarget) -> Grant {
    Grant { name: Arc::from(name), target, rights: Rights::ALL }
}

pub fn slot(handle: Handle, copy: bool) -> KeySlot {
    KeySlot { handle, rights: Rights::ALL.0, copy }
}

pub fn request(kind: RequestKind, handle: Handle, operation: u64) -> RequestHeader {
    RequestHeader { operation, ..RequestHeader::new(kind, handle) }
}

pub fn call(handle: Handle, operation: u64) -> RequestHeader {
    request(RequestKind::Call, handle, operation)
}

pub fn send(handle: Handle, operation: u64) -> RequestHeader {
    request(RequestKind::Send, handle, operation)
}

pub fn reply(handle: Handle, result: u64) -> RequestHeader {
    request(RequestKind::Reply, handle, result)
}

pub fn with_keys<const N: usize>(mut header: RequestHeader, keys: [KeySlot; N]) -> RequestHeader {
    for (into, key) in header.keys.iter_mut().zip(keys) {
        *into = Some(key);
    }
    header
}

pub fn argument(kind: RequestKind, handle: Handle, argument: u64) -> RequestHeader {
    RequestHeader { argument, ..RequestHeader::new(kind, handle) }
}

impl World {
    pub fn new() -> Self {
        World { serial_block: 1 << 20, now: 1_000, ..World::default() }
    }

    /// Starts plain districts.
    pub fn with(districts: &[DistrictId]) -> Self {
        let mut world = World::new();
        for district in districts {
            world.start(plain(*district));
        }
        world
    }

    /// A new life of a district.
    pub fn start(&mut self, attach: Attach) {
        let durable = self.durable.entry(attach.district).or_default();
        durable.epoch += 1;
        durable.epoch_first_serial = durable.next_serial.max(1);
        self.attach(attach);
    }

    /// A new session of the same life.
    pub fn attach(&mut self, attach: Attach) {
        let durable = self.durable.entry(attach.district).or_default();
        let first = durable.next_serial.max(1);
        durable.next_serial = first + self.serial_block;
        let attach = Attach {
            epoch: durable.epoch,
            serials: first..durable.next_serial,
            epoch_first_serial: durable.epoch_first_serial,
            ..attach
        };
        self.guests.insert(attach.district, Guest::default());
        self.core.attach(self.now, attach).unwrap();
        self.settle();
    }

    /// Ends a district's life; it has consumed what [`World::take`] gave it, less `unread`.
    pub fn crash(&mut self, district: DistrictId, unread: u64) {
        self.end(district, Reason::PeerRestart, unread);
    }

    pub fn end(&mut self, district: DistrictId, reason: Reason, unread: u64) {
        let guest = self.guests.remove(&district).unwrap();
        self.core.detach(self.now, district, reason, guest.consumed - unread);
        self.settle();
    }

    pub fn is_up(&self, district: DistrictId) -> bool {
        self.guests.contains_key(&district)
    }

    /// Makes a request with data.
    pub fn submit(&mut self, district: DistrictId, mut header: RequestHeader, data: &[u8]) -> Token {
        header.data_len = u32::try_from(data.len()).unwrap();
        self.next_token += 1;
        if header.token == 0 {
            header.token = self.next_token;
        }
        let mut bytes = header.encode().to_vec();
        bytes.extend(data);
        self.submit_bytes(district, header.token, bytes)
    }

    pub fn submit_bytes(&mut self, district: DistrictId, token: u64, bytes: Vec<u8>) -> Token {
        let guest = self.guests.get_mut(&district).unwrap();
        while guest.chains.contains_key(&guest.next_chain) {
            guest.next_chain = guest.next_chain.wrapping_add(1);
        }
        let chain = guest.next_chain;
        guest.next_chain = chain.wrapping_add(1);
        guest.chains.insert(chain, token);
        let capacity = self.capacity.unwrap_or(CAPACITY);
        self.core.request(self.now, district, RawRequest { chain, capacity, bytes });
        self.settle();
        Token { district, token }
    }

    /// Carries out the effects and checks the broker.
    pub fn settle(&mut self) {
        loop {
            let effects: Vec<Effect> = self.core.drain_effects().collect();
            if effects.is_empty() {
                break;
            }
            for effect in effects {
                self.carry_out(effect);
            }
        }
        if cfg!(debug_assertions) && self.guests.len() < 10 {
            self.core.check_invariants().unwrap();
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Complete { district, chain, header, data } => {
                assert_eq!(header.data_len as usize, data.len());
                self.complete(district, chain, Completion { header, data: data.to_vec() });
            }
            Effect::FillRandom { district, chain, token, count } => {
                let header = CompletionHeader { data_len: count, ..CompletionHeader::new(Status::Ok, token) };
                self.complete(district, chain, Completion { header, data: vec![4; count as usize] });
            }
            Effect::Deliverable(district) => assert!(self.core.has_deliveries(district)),
            Effect::Log { district, text } => self.logged.push((district, text)),
            Effect::Bound(record) => {
                self.bound.insert((record.owner, record.name.clone()), record);
            }
            Effect::Unbound(record) => {
                self.bound.remove(&(record.owner, record.name)).unwrap();
            }
            Effect::Checkpoint(district) => self.wanted.push(district),
            Effect::ReserveSerials(district) => {
                let durable = self.durable.get_mut(&district).unwrap();
                let first = durable.next_serial;
                durable.next_serial += self.serial_block;
                self.core.serials_reserved(district, first..first + self.serial_block);
            }
        }
    }

    fn complete(&mut self, district: DistrictId, chain: u16, completion: Completion) {
        let guest = self.guests.get_mut(&district).expect("an effect for a district that is not attached");
        let token = guest.chains.remove(&chain).expect("a second completion");
        assert_eq!(completion.header.token, token);
        guest.completions.insert(token, completion);
        self.completed.push_back(Token { district, token });
    }

    /// The completion of a request, if it has come.
    pub fn poll(&mut self, token: Token) -> Option<Completion> {
        self.guests.get_mut(&token.district)?.completions.remove(&token.token)
    }

    pub fn done(&mut self, token: Token) -> Completion {
        self.poll(token).expect("not completed")
    }

    pub fn pending(&mut self, token: Token) -> bool {
        self.guests[&token.district].chains.values().any(|other| *other == token.token)
    }

    /// Makes a request that ends at once.
    pub fn ask(&mut self, district: DistrictId, header: RequestHeader, data: &[u8]) -> Completion {
        let token = self.submit(district, header, data);
        self.done(token)
    }

    pub fn status(&mut self, district: DistrictId, header: RequestHeader) -> Status {
        self.ask(district, header, &[]).status()
    }

    /// Makes a request that must succeed, and gives its result.
    pub fn ok(&mut self, district: DistrictId, header: RequestHeader) -> u64 {
        let completion = self.ask(district, header, &[]);
        assert_eq!(completion.status(), Status::Ok);
        completion.header.result
    }

    /// The next delivery, which the district consumes.
    pub fn take(&mut self, district: DistrictId) -> Option<Delivery> {
        let mut taken = None;
        let result = self.core.deliver(district, |header, data| {
            let header = DeliveryHeader { buffers: 1, ..*header };
            assert_eq!(DeliveryHeader::decode(&header.encode()), Ok(header));
            taken = Some(Delivery { header, data: data.to_vec() });
            true
        });
        assert_eq!(taken.is_some(), result == Delivered::Placed);
        if taken.is_some() {
            self.guests.get_mut(&district).unwrap().consumed += 1;
        }
        self.settle();
        taken
    }

    pub fn take_message(&mut self, district: DistrictId) -> Delivery {
        let delivery = self.take(district).expect("no delivery");
        assert_eq!(delivery.header.kind, DeliveryKind::Message);
        delivery
    }

    pub fn take_kind(&mut self, district: DistrictId, kind: DeliveryKind) -> Delivery {
        let delivery = self.take(district).expect("no delivery");
        assert_eq!(delivery.header.kind, kind);
        delivery
    }

    pub fn pass(&mut self, nanoseconds: u64) {
        self.now += nanoseconds;
        self.core.expire(self.now);
        self.settle();
    }

    /// Begins a checkpoint, which is what the broker wants if it wants one.
    pub fn checkpoint_begins(&mut self, district: DistrictId) -> CheckpointTicket {
        self.wanted.retain(|wanted| *wanted != district);
        let ticket = self.core.checkpoint_begins(district);
        self.settle();
        ticket
    }

    pub fn checkpointed(&mut self, ticket: CheckpointTicket, result: Result<u64, NoCheckpoint>) {
        self.core.checkpointed(self.now, ticket, result);
        self.settle();
    }

    pub fn export(&mut self, district: DistrictId, name: u64) -> Handle {
        Handle(self.ok(district, argument(RequestKind::Export, Handle(0), name)))
    }

    pub fn derive(&mut self, district: DistrictId, handle: Handle, rights: Rights) -> Handle {
        Handle(self.ok(district, request(RequestKind::Derive, handle, u64::from(rights.0))))
    }

    pub fn lookup(&mut self, district: DistrictId, path: &str) -> Completion {
        self.ask(district, call(Handle::BOOTSTRAP, directory::LOOKUP), path.as_bytes())
    }

    /// Gives `to` a copy of a key of `from`, by way of an entry that exists for that alone.
    pub fn give(&mut self, from: DistrictId, handle: Handle, to: DistrictId) -> Handle {
        self.pass_key(from, slot(handle, true), to)
    }

    /// Passes a key on to `to` in a message, and clears away what was needed for that. The handle of `to`.
    pub fn pass_key(&mut self, from: DistrictId, key: KeySlot, to: DistrictId) -> Handle {
        let channel = self.channel(from, to);
        assert_eq!(self.status(from, with_keys(send(channel, 0), [key])), Status::Ok);
        let delivery = self.take_message(to);
        assert_eq!(delivery.header.key_count, 1);
        self.ok(from, RequestHeader::new(RequestKind::Drop, channel));
        while self.take(to).is_some_and(|delivery| delivery.header.kind != DeliveryKind::Unreferenced) {}
        delivery.header.keys[0]
    }

    /// A key of `from` to an export of `to`, made by binding it to the name `channel`. Both must have been started
    /// with [`friends`].
    pub fn channel(&mut self, from: DistrictId, to: DistrictId) -> Handle {
        let publisher = self.lookup(to, "publish/channel").key();
        let entry = self.export(to, 0);
        let bind = with_keys(call(publisher, directory::BIND), [slot(entry, false)]);
        assert_eq!(self.status(to, bind), Status::Ok);
        let key = self.lookup(from, &format!("to-{}", to.0[0])).key();
        assert_eq!(self.status(to, call(publisher, directory::UNBIND)), Status::Ok);
        self.ok(to, RequestHeader::new(RequestKind::Drop, publisher));
        key
    }

    /// A new export of `server`, and a key to it for `client`.
    pub fn connect(&mut self, client: DistrictId, server: DistrictId, name: u64) -> (Handle, Handle) {
        let entry = self.export(server, name);
        let key = self.give(server, entry, client);
        (entry, key)
    }

    /// A call that is delivered: its token, and the delivery.
    pub fn delivered_call(&mut self, client: DistrictId, key: Handle, server: DistrictId) -> (Token, Delivery) {
        let token = self.submit(client, call(key, 1), b"question");
        let delivery = self.take_message(server);
        assert_ne!(delivery.header.reply, Handle(0));
        (token, delivery)
    }

    pub fn view(&self, district: DistrictId) -> district_broker::DistrictView {
        self.core.inspect().districts.into_iter().find(|view| view.id == district).unwrap()
    }
}

/// A district that can open a channel to each of `others`.
pub fn friend(district: DistrictId, others: &[DistrictId]) -> Attach {
    Attach {
        grants: others.iter().map(|other| grant(&format!("to-{}", other.0[0]), service(*other, "channel"))).collect(),
        publishes: vec![Arc::from("channel")],
        ..plain(district)
    }
}

/// Districts that can open channels to each other.
pub fn friends(districts: &[DistrictId]) -> World {
    let mut world = World::new();
    for district in districts {
        world.start(friend(*district, districts));
    }
    world
}
