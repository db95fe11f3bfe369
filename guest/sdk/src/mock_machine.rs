//! A machine for tests, in place of `machine`: a boot page, a clock, a window in ordinary memory, the device's registers,
//! and behind them a broker that the test scripts. It is strict about wake-ups: the broker looks at a queue only when
//! the doorbell was rung, and a parked district wakes only when the queues say that it wants to. A test in which one of
//! the two is forgotten fails instead of hanging. Each thread, so each test, has its own.
//!
//! Every access to boot page, window and registers, and every park, is a step. A test can have the district restored
//! right before any of them.

use std::boxed::Box;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::Read;
use std::vec::Vec;

use district_protocol::boot::{BOOT_MAGIC, BootPage, StartReason};
use district_protocol::channel::{CONSUMED_OFFSET, FEATURES};
use district_protocol::frame::{CompletionHeader, DELIVERY_HEADER, DeliveryHeader, REQUEST_HEADER, RequestHeader};
use district_protocol::handle::Handle;
use district_protocol::layout::WINDOW_BASE;
use district_protocol::shim::NO_DEADLINE;
use district_protocol::status::Status;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// Bytes of the buffers that the library posts.
const BUFFER: usize = 2048;

#[repr(align(4096))]
struct BootMemory([u8; 4096]);

std::thread_local! {
    static BOOT: Cell<*mut BootMemory> = const { Cell::new(core::ptr::null_mut()) };
    static CLOCK: Cell<u64> = const { Cell::new(1_000_000_000) };
    static HOST: RefCell<Option<Host>> = const { RefCell::new(None) };
    static STEPS: Cell<u64> = const { Cell::new(0) };
    static PLAN: RefCell<VecDeque<(u64, Checkpoint)>> = const { RefCell::new(VecDeque::new()) };
}

/// A request as the broker sees it.
pub(crate) struct Request {
    pub(crate) header: RequestHeader,
    pub(crate) data: Vec<u8>,
    head: u16,
}

/// The far side of the channel.
pub(crate) struct Wires {
    pub(crate) memory: GuestMemoryMmap,
    pub(crate) queues: [Queue; 2],
    backlog: VecDeque<(DeliveryHeader, Vec<u8>)>,
    /// Buffers taken from the delivery queue and not filled yet.
    posted: VecDeque<(u16, GuestAddress)>,
    pub(crate) wakes: usize,
    woken: bool,
}

/// What the life that begins from a checkpoint has of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Checkpoint {
    /// Makes its entropy.
    pub(crate) entropy: u64,
}

type HostEvent = Box<dyn FnOnce(&mut Host)>;
type Broker = Box<dyn FnMut(&mut Wires, Request)>;

pub(crate) struct Host {
    pub(crate) wires: Wires,
    broker: Option<Broker>,
    /// What happens when the district parks, first to last, before anything else.
    pub(crate) at_park: VecDeque<HostEvent>,
    /// The broker works whenever the doorbell rings; else only while the district is parked.
    pub(crate) eager: bool,
    pub(crate) doorbells: [usize; 2],
    pub(crate) starts: usize,
    pub(crate) restores: u64,
    /// The device was set up in part before a restore, so that it is not set up right now is no mistake.
    torn: bool,
    rung: [bool; 2],
    status: u32,
    selected: [u32; 2],
    features: u64,
}

impl Wires {
    /// Ends a request.
    pub(crate) fn complete(&mut self, request: &Request, header: &CompletionHeader, data: &[u8]) {
        let header =
            CompletionHeader { token: request.header.token, data_len: u32::try_from(data.len()).unwrap(), ..*header };
        let mut bytes = header.encode().to_vec();
        bytes.extend_from_slice(data);
        self.complete_raw(request, &bytes);
    }

    /// Ends a request with whatever bytes.
    pub(crate) fn complete_raw(&mut self, request: &Request, bytes: &[u8]) {
        let memory = self.memory.clone();
        let answer = answer_of(&memory, &self.queues[0], request.head);
        memory.write_slice(bytes, GuestAddress(answer)).unwrap();
        self.used(0, request.head, u32::try_from(bytes.len()).unwrap());
    }

    /// Puts an element into the used ring.
    pub(crate) fn used(&mut self, queue: usize, head: u16, len: u32) {
        let memory = self.memory.clone();
        self.queues[queue].add_used(&memory, head, len).unwrap();
        self.wake_if_wanted(queue);
    }

    fn wake_if_wanted(&mut self, queue: usize) {
        let memory = self.memory.clone();
        if self.queues[queue].needs_notification(&memory).unwrap() {
            self.wakes += 1;
            self.woken = true;
        }
    }

    pub(crate) fn ok(&mut self, request: &Request, result: u64, data: &[u8]) {
        let header = CompletionHeader { result, ..CompletionHeader::new(Status::Ok, 0) };
        self.complete(request, &header, data);
    }

    pub(crate) fn fail(&mut self, request: &Request, status: Status) {
        self.complete(request, &CompletionHeader::new(status, 0), &[]);
    }

    /// Queues a delivery, which goes out as soon as there are buffers for it.
    pub(crate) fn deliver(&mut self, header: &DeliveryHeader, data: &[u8]) {
        self.backlog.push_back((*header, data.to_vec()));
        self.pump_deliveries();
    }

    fn pump_deliveries(&mut self) {
        if !self.queues[1].ready() {
            return;
        }
        let memory = self.memory.clone();
        while let Some((header, data)) = self.backlog.front().cloned() {
            let buffers = (DELIVERY_HEADER + data.len()).div_ceil(BUFFER);
            while self.posted.len() < buffers {
                match self.queues[1].pop_descriptor_chain(&memory) {
                    Some(mut chain) => {
                        self.posted.push_back((chain.head_index(), chain.next().unwrap().addr()));
                    }
                    None if self.queues[1].enable_notification(&memory).unwrap() => {}
                    None => return,
                }
            }
            let header = DeliveryHeader {
                buffers: u16::try_from(buffers).unwrap(),
                data_len: u32::try_from(data.len()).unwrap(),
                ..header
            };
            let bytes = [header.encode().as_slice(), &data].concat();
            for part in bytes.chunks(BUFFER) {
                let (head, address) = self.posted.pop_front().unwrap();
                memory.write_slice(part, address).unwrap();
                self.queues[1].add_used(&memory, head, u32::try_from(part.len()).unwrap()).unwrap();
            }
            self.wake_if_wanted(1);
            self.backlog.pop_front();
        }
    }
}

fn answer_of(memory: &GuestMemoryMmap, queue: &Queue, head: u16) -> u64 {
    let table = queue.desc_table();
    let next: u16 = memory.read_obj(GuestAddress(table + 16 * u64::from(head) + 14)).unwrap();
    memory.read_obj(GuestAddress(table + 16 * u64::from(next))).unwrap()
}

impl Host {
    fn ring(&mut self, queue: usize) {
        if !self.is_running() {
            return;
        }
        self.doorbells[queue] += 1;
        self.rung[queue] = true;
        if self.eager {
            self.work();
        }
    }

    /// Whether the broker has the queues.
    fn is_running(&self) -> bool {
        self.status & (4 | 64) == 4
    }

    fn work(&mut self) {
        if core::mem::take(&mut self.rung[1]) {
            self.wires.pump_deliveries();
        }
        if !core::mem::take(&mut self.rung[0]) {
            return;
        }
        let mut broker = self.broker.take().expect("a broker");
        let memory = self.wires.memory.clone();
        loop {
            while let Some(chain) = self.wires.queues[0].pop_descriptor_chain(&memory) {
                let head = chain.head_index();
                let mut bytes = Vec::new();
                chain.reader(&memory).unwrap().read_to_end(&mut bytes).unwrap();
                let header = RequestHeader::decode(&bytes).expect("a well-formed request");
                assert_eq!(header.data_len as usize, bytes.len() - REQUEST_HEADER);
                let data = bytes.split_off(REQUEST_HEADER);
                broker(&mut self.wires, Request { header, data, head });
            }
            if !self.wires.queues[0].enable_notification(&memory).unwrap() {
                break;
            }
        }
        self.broker = Some(broker);
    }

    /// Ends the connection as a new broker does, or, with a new epoch, as a restore does.
    pub(crate) fn disconnect(&mut self, restored: bool) {
        with_boot(|boot| {
            if restored {
                boot.epoch += 1;
                boot.session = 1;
                boot.reason = StartReason::Crash as u32;
                boot.generation += 1;
                boot.checkpoint_time = CLOCK.get();
                boot.entropy[..8].copy_from_slice(&boot.epoch.to_le_bytes());
            } else {
                boot.session += 1;
                boot.reason = StartReason::BrokerRestart as u32;
            }
        });
        if restored {
            self.restores += 1;
            self.torn = true;
            let size = self.window_size();
            self.wires.memory.write_slice(&std::vec![0; size], GuestAddress(WINDOW_BASE)).unwrap();
        }
        self.wires.queues.iter_mut().for_each(QueueT::reset);
        self.wires.backlog.clear();
        self.wires.posted.clear();
        self.rung = [false; 2];
        // A new broker leaves the device as it is; after a restore it is in its reset state.
        self.status = if restored { 0 } else { self.status | 64 };
        if restored {
            (self.features, self.selected) = (0, [0; 2]);
        }
        self.wires.woken = true;
    }

    /// Until the reset is complete the broker may write wherever it had something to write to. This one does all over the
    /// window, so that what the library has written there too early does not work.
    fn reset(&mut self) {
        if self.status != 0 {
            let size = self.window_size();
            self.wires.memory.write_slice(&std::vec![0xa5; size], GuestAddress(WINDOW_BASE)).unwrap();
        }
        self.wires.queues.iter_mut().for_each(QueueT::reset);
        (self.features, self.selected) = (0, [0; 2]);
    }

    fn window_size(&self) -> usize {
        usize::try_from(self.wires.memory.last_addr().0 + 1 - WINDOW_BASE).unwrap()
    }

    /// What the library says it has consumed.
    pub(crate) fn consumed(&self) -> u64 {
        self.wires.memory.read_obj(GuestAddress(WINDOW_BASE + CONSUMED_OFFSET)).unwrap()
    }

    fn start(&mut self) {
        for queue in &mut self.wires.queues {
            queue.set_event_idx(true);
        }
        let valid = self.features == FEATURES
            && self.consumed() == 0
            && self.wires.queues.iter().all(|queue| queue.is_valid(&self.wires.memory));
        if !valid {
            assert!(self.torn, "the device is not set up right, or the session begins with something consumed");
            self.status |= 64;
            return;
        }
        self.starts += 1;
        self.wires.pump_deliveries();
    }

    fn write(&mut self, register: u32, value: u32) {
        let queue = &mut self.wires.queues[usize::try_from(self.selected[1]).unwrap()];
        match register {
            0x020 => self.features |= u64::from(value) << (32 * self.selected[0]),
            0x024 => self.selected[0] = value,
            0x030 => self.selected[1] = value,
            0x038 => queue.set_size(u16::try_from(value).unwrap()),
            0x044 => queue.set_ready(value == 1),
            0x050 => self.ring(usize::try_from(value).unwrap()),
            0x070 => {
                if value == 0 {
                    self.torn = false;
                    self.reset();
                } else {
                    assert_eq!(value & self.status, self.status, "bits of the status are only added");
                }
                self.status = value;
                if value & 4 != 0 {
                    self.start();
                }
            }
            0x080 => queue.set_desc_table_address(Some(value), None),
            0x090 => queue.set_avail_ring_address(Some(value), None),
            0x0a0 => queue.set_used_ring_address(Some(value), None),
            other => panic!("write of register {other:#x}"),
        }
    }
}

/// How many steps there were.
pub(crate) fn steps() -> u64 {
    STEPS.get()
}

/// Restores the district right before this step. Several are named in their order.
pub(crate) fn restore_at(step: u64, checkpoint: Checkpoint) {
    PLAN.with(|plan| plan.borrow_mut().push_back((step, checkpoint)));
}

/// Forgets about restores that have not come.
pub(crate) fn no_more_restores() {
    PLAN.with(|plan| plan.borrow_mut().clear());
}

pub(crate) fn step() {
    STEPS.set(STEPS.get() + 1);
    let due = PLAN.with(|plan| {
        let mut plan = plan.borrow_mut();
        plan.pop_front_if(|(step, _)| *step <= STEPS.get())
    });
    if let Some((_, Checkpoint { entropy })) = due {
        host(|host| host.disconnect(true));
        with_boot(|boot| boot.entropy[8..16].copy_from_slice(&entropy.to_le_bytes()));
    }
}

/// Changes the boot page.
pub(crate) fn with_boot(change: impl FnOnce(&mut BootPage)) {
    let page = BOOT.get();
    assert!(!page.is_null());
    // SAFETY: `install` has leaked a page that begins with a `BootPage`, and only this thread knows of it.
    change(unsafe { &mut *page.cast::<BootPage>() });
}

/// Writes bytes into the page, as arguments are.
pub(crate) fn write_boot(offset: usize, bytes: &[u8]) {
    // SAFETY: `install` has leaked this page, and only this thread knows of it.
    let page = unsafe { &mut *BOOT.get() };
    page.0[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// Sets up a machine with a window of this size, and a broker.
pub(crate) fn install(window_size: u64, broker: impl FnMut(&mut Wires, Request) + 'static) {
    BOOT.set(Box::into_raw(Box::new(BootMemory([0; 4096]))));
    with_boot(|boot| {
        boot.magic = BOOT_MAGIC;
        boot.abi_version = district_protocol::ABI_VERSION;
        boot.epoch = 1;
        boot.session = 1;
        boot.clock_scale = 1 << 32;
        boot.window_base = WINDOW_BASE;
        boot.window_size = window_size;
    });
    let size = usize::try_from(window_size).unwrap();
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(WINDOW_BASE), size)]).unwrap();
    let queues = [Queue::new(1024).unwrap(), Queue::new(1024).unwrap()];
    let wires = Wires { memory, queues, backlog: VecDeque::new(), posted: VecDeque::new(), wakes: 0, woken: false };
    let host = Host {
        wires,
        broker: Some(Box::new(broker)),
        at_park: VecDeque::new(),
        eager: false,
        doorbells: [0; 2],
        starts: 0,
        restores: 0,
        torn: false,
        rung: [false; 2],
        status: 0,
        selected: [0; 2],
        features: 0,
    };
    HOST.with(|slot| *slot.borrow_mut() = Some(host));
    STEPS.set(0);
    PLAN.with(|plan| plan.borrow_mut().clear());
}

/// Uses the machine from the test. The broker must not use the library.
pub(crate) fn host<R>(access: impl FnOnce(&mut Host) -> R) -> R {
    HOST.with(|slot| access(slot.borrow_mut().as_mut().expect("a machine")))
}

/// A handle as a broker makes it.
pub(crate) fn handle(serial: u64) -> Handle {
    Handle::from_serial(serial)
}

pub(crate) fn boot_page() -> *const BootPage {
    BOOT.get().cast()
}

pub(crate) fn memory(address: u64) -> *mut u8 {
    host(|host| host.wires.memory.get_host_address(GuestAddress(address)).unwrap())
}

pub(crate) fn park(until: u64) {
    step();
    host(|host| {
        if let Some(event) = host.at_park.pop_front() {
            event(host);
        }
        host.work();
        if core::mem::take(&mut host.wires.woken) {
            return;
        }
        assert_ne!(until, NO_DEADLINE, "the district is parked for ever");
        CLOCK.set(CLOCK.get().max(until));
    });
}

pub(crate) fn exit(code: u8, message: &str) -> ! {
    panic!("exit {code}: {message}");
}

pub(crate) fn ticks() -> u64 {
    step();
    CLOCK.set(CLOCK.get() + 1);
    CLOCK.get()
}

pub(crate) fn write_register(register: u32, value: u32) {
    step();
    host(|host| host.write(register, value));
}
