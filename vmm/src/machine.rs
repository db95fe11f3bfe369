//! Putting a district's virtual machine together.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};

use district_devices::{Window, WindowError};
use district_protocol::channel::{QUEUE_COUNT, register};
use district_protocol::layout::{DEVICE_BASE, KVM_PRIVATE_BASE, PAGE_SIZE, RAM_BASE, WINDOW_BASE};
use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region};
use kvm_ioctls::{IoEventAddress, Kvm, VcpuFd, VmFd};
use thiserror::Error;
use vmm_sys_util::errno;

use crate::address_space::SizeError;
use crate::boot_page;
use crate::channel::{Channel, Events};
use crate::checkpoint;
use crate::clock::GuestClock;
use crate::control::{Start, StartError};
use crate::cpuid::Cpuid;
use crate::dirty::DirtyPages;
use crate::kick::Kick;
use crate::loader::ImageError;
use crate::memory::{MemoryError, Ram};
use crate::origin::{Begins, Memory, Origin, RestoreError, Source};
use crate::paging::PagingError;
use crate::pause::Pause;
use crate::registers::{self, RegisterError};
use crate::report::Ended;
use crate::state::{Layout, MachineState};
use crate::vcpu::{Vcpu, lock};
use crate::warm_up::warm_up;

/// Why a machine could not be built.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The daemon asks for something that does not exist.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The program is none that can run here.
    #[error("program: {0}")]
    Image(#[from] ImageError),
    /// The checkpoint is none that can be restored here.
    #[error("checkpoint: {0}")]
    Restore(#[from] RestoreError),
    /// The sizes do not fit.
    #[error(transparent)]
    Size(#[from] SizeError),
    /// The window is not what was agreed on.
    #[error(transparent)]
    Window(#[from] WindowError),
    /// The host's processor cannot address so much memory.
    #[error("memory would end at {0:#x}: this host's processor addresses only {1:#x}")]
    TooFar(u64, u64),
    /// The host has no time-stamp counter that a clock could be made from.
    #[error("the time-stamp counter does not run")]
    Clock,
    /// The host's memory.
    #[error("{0}")]
    Memory(String),
    /// The host refuses.
    #[error("cannot {what}: {source}")]
    Host {
        /// What was to be done.
        what: &'static str,
        /// Its answer.
        source: errno::Error,
    },
    /// A mistake of ours.
    #[error("the vCPU thread has died")]
    Thread,
    /// KVM refuses the state of the processor.
    #[error(transparent)]
    Registers(#[from] RegisterError),
}

impl From<MemoryError> for BuildError {
    fn from(error: MemoryError) -> Self {
        Self::Memory(error.to_string())
    }
}

impl From<PagingError> for BuildError {
    fn from(error: PagingError) -> Self {
        Self::Memory(error.to_string())
    }
}

fn host(what: &'static str) -> impl Fn(errno::Error) -> BuildError {
    move |source| BuildError::Host { what, source }
}

/// KVM's number for RAM.
pub(crate) const RAM_SLOT: u32 = 0;
/// KVM's number for the window.
const WINDOW_SLOT: u32 = 1;

/// A virtual machine with a processor, and no memory or doorbells: all that can be made before it is known which
/// district it is going to be, which takes KVM longer than the rest.
pub struct Blank {
    vcpu: VcpuFd,
    cpuid: Cpuid,
    events: Arc<Events>,
    kick: Arc<Kick>,
    // Closed last: memory slots and doorbells are going to be in it.
    vm: VmFd,
}

impl Blank {
    /// Makes one whose guest will see the processor `cpuid`.
    pub fn new(kvm: &Kvm, cpuid: Cpuid) -> Result<Self, BuildError> {
        let events = Arc::new(Events::new().map_err(|error| host("make an eventfd")(error.into()))?);
        let vm = kvm.create_vm().map_err(host("make a virtual machine"))?;
        // Both before the first vCPU (Linux `Documentation/virt/kvm/api.rst`).
        vm.set_identity_map_address(KVM_PRIVATE_BASE).map_err(host("place kvm's identity map"))?;
        vm.set_tss_address(address(KVM_PRIVATE_BASE + PAGE_SIZE)).map_err(host("place kvm's task state segment"))?;
        let vcpu = vm.create_vcpu(0).map_err(host("make a virtual processor"))?;
        registers::prepare(&vcpu, &cpuid)?;
        // SAFETY: `borrow_raw` wants a descriptor that stays open during the call: it is `vcpu`'s.
        let borrowed = unsafe { BorrowedFd::borrow_raw(vcpu.as_raw_fd()) };
        let kick = Kick::new(borrowed)
            .map_err(|error| host("map the virtual processor")(errno::Error::new(error.raw_os_error())))?;
        Ok(Self { vcpu, cpuid, events, kick: Arc::new(kick), vm })
    }

    /// Takes the vCPU up to its guest, in the thread that is going to run it, which costs a district nothing then.
    pub(crate) fn warm_up(mut self) -> Result<Self, BuildError> {
        warm_up(&mut self.vcpu).map_err(host("warm up a virtual processor"))?;
        Ok(self)
    }

    /// Memory and doorbells, in this order.
    fn connect(&self, slots: [kvm_userspace_memory_region; 2]) -> Result<(), BuildError> {
        for region in slots {
            // SAFETY: `set_user_memory_region` wants memory that is mapped as long as the guest may run and that Rust
            // holds no references to: RAM and window are mappings that the vCPU's thread keeps alive when it runs the guest,
            // and they are only ever accessed by copying.
            unsafe { self.vm.set_user_memory_region(region) }.map_err(host("give the guest its memory"))?;
        }
        // After the slots: connecting one leaves KVM something to free later, and for milliseconds a slot waits for that.
        for (kick, queue) in self.events.kicks.iter().zip(0..u32::from(QUEUE_COUNT)) {
            self.vm
                .register_ioevent(kick, &IoEventAddress::Mmio(DEVICE_BASE + u64::from(register::QUEUE_NOTIFY)), queue)
                .map_err(host("connect a doorbell"))?;
        }
        Ok(())
    }
}

/// KVM's slots for RAM and window. `logged`: KVM notes which pages of RAM the guest writes to.
fn slots(ram: &Ram, window: &Window, logged: bool) -> [kvm_userspace_memory_region; 2] {
    let log = if logged { KVM_MEM_LOG_DIRTY_PAGES } else { 0 };
    [
        (RAM_SLOT, log, RAM_BASE, ram.size(), ram.host_address()),
        (WINDOW_SLOT, 0, WINDOW_BASE, window.size(), window.host_address()),
    ]
    .map(|(slot, flags, guest_phys_addr, memory_size, userspace_addr)| kvm_userspace_memory_region {
        slot,
        flags,
        guest_phys_addr,
        memory_size,
        userspace_addr,
    })
}

/// A machine that has memory now, if KVM agrees.
pub(crate) type Connected = (Blank, Result<(), BuildError>);
/// What connects it.
pub(crate) type Connect = Box<dyn FnOnce() -> Connected + Send>;

/// Connects it without the help of another thread.
pub(crate) fn at_once(connect: Connect) -> Receiver<Connected> {
    let (sender, connected) = sync_channel(1);
    let _ = sender.send(connect());
    connected
}

/// What makes a district of a [`Blank`], beside its description.
pub struct Parts {
    /// Where its memory comes from.
    pub origin: Origin,
    /// The window's memory.
    pub window: OwnedFd,
}

/// A virtual machine whose guest has not begun. It goes to the thread that runs it; [`Handle`] is for the others.
pub struct Machine {
    vcpu: Vcpu,
}

/// What other threads may do to a machine.
#[derive(Clone)]
pub struct Handle {
    ram: Arc<Ram>,
    channel: Arc<Mutex<Channel>>,
    events: Arc<Events>,
    kick: Arc<Kick>,
    session: u64,
    vm: Arc<VmFd>,
    pause: Arc<Pause>,
    /// What the first checkpoint has to hold beside what the guest has written.
    written: DirtyPages,
}

impl Machine {
    /// Makes the machine that `start` describes of a blank one.
    pub fn build(start: &Start, blank: Blank, parts: Parts) -> Result<(Self, Handle), BuildError> {
        Self::build_beside(start, blank, parts, at_once)
    }

    /// The same, but `begin_to` connect memory while it is being filled.
    pub(crate) fn build_beside(
        start: &Start,
        blank: Blank,
        parts: Parts,
        begin_to: impl FnOnce(Connect) -> Receiver<Connected>,
    ) -> Result<(Self, Handle), BuildError> {
        start.check()?;
        let (source, ram) = Source::map(start, &blank.cpuid, parts.origin)?;
        let window = Window::map(parts.window, start.window)?;
        let slots = slots(&ram, &window, start.checkpoints.is_some());
        let connected = begin_to(Box::new(move || {
            let connected = blank.connect(slots);
            (blank, connected)
        }));
        let filled = source.fill(start, ram);
        // Whatever became of that: KVM does not look at the memory before the guest runs.
        let (blank, connected) = connected.recv().map_err(|_| BuildError::Thread)?;
        let Memory { ram, layout, written, begins } = filled?;
        connected?;
        let Blank { vcpu: fd, cpuid, events, kick, vm } = blank;
        let was_running = matches!(begins, Begins::In(_));
        let cpuid = begin(&fd, cpuid, &layout, begins)?;
        if was_running {
            // So that the first park returns: what the guest was about to wait for will not come.
            let _ = events.call.write(1);
        }
        let clock = start_clock(&fd)?;
        boot_page::write(&ram, &layout, start, &clock, entropy()?)?;

        let ram = Arc::new(ram);
        let vm = Arc::new(vm);
        let pause = Arc::new(Pause::new());
        let channel = Arc::new(Mutex::new(Channel::new(start.epoch, window, Arc::clone(&events))));
        let handle = Handle {
            ram: Arc::clone(&ram),
            channel: Arc::clone(&channel),
            events: Arc::clone(&events),
            kick: Arc::clone(&kick),
            session: boot_page::FIRST_SESSION,
            vm: Arc::clone(&vm),
            pause: Arc::clone(&pause),
            written,
        };
        let vcpu = Vcpu { fd, vm, cpuid, layout, pause, ram, channel, events, kick, clock };
        Ok((Self { vcpu }, handle))
    }

    /// Runs the guest on this thread until its life is over.
    pub fn run(&mut self) -> Ended {
        self.vcpu.run()
    }

    /// The guest's life is over: nobody need wait for a pause of it.
    pub(crate) fn close(&self) {
        self.vcpu.pause.close();
    }
}

impl Handle {
    /// Asks the guest, which runs or is going to run on `thread`, to stop.
    pub fn stop<T>(&self, thread: &std::thread::JoinHandle<T>) -> Result<(), BuildError> {
        let result = self.kick.stop(thread).map_err(host("signal the virtual processor"));
        // The thread may just be going to wait for the daemon, where only this reaches it.
        let _ = self.events.call.write(1);
        result
    }

    /// What taking checkpoints of the guest, which runs or is going to run on `vcpu`, needs.
    pub(crate) fn checkpoint_parts(&self, vcpu: Arc<std::thread::JoinHandle<()>>) -> checkpoint::Parts {
        let Self { vm, ram, kick, events, pause, written, .. } = self.clone();
        checkpoint::Parts { vm, ram, kick, events, pause, vcpu, written }
    }

    #[cfg(test)]
    pub(crate) fn ram(&self) -> Arc<Ram> {
        Arc::clone(&self.ram)
    }

    #[cfg(test)]
    pub(crate) fn call(&self) -> vmm_sys_util::eventfd::EventFd {
        self.events.call.try_clone().unwrap()
    }

    /// The daemon offers a session.
    pub fn offer(&mut self, socket: Arc<UnixStream>) -> Result<(), BuildError> {
        let channel = Arc::clone(&self.channel);
        let mut channel = lock(&channel);
        if channel.offer(socket) { self.session_over() } else { Ok(()) }
    }

    /// The daemon has hung up on this socket.
    pub fn hung_up(&mut self, socket: &Arc<UnixStream>) -> Result<(), BuildError> {
        let channel = Arc::clone(&self.channel);
        let mut channel = lock(&channel);
        if channel.hung_up(socket) { self.session_over() } else { Ok(()) }
    }

    /// Tells the guest; the device status has been set before. The channel is locked, so that a guest that reads that status
    /// finds the new number of the session as well.
    fn session_over(&mut self) -> Result<(), BuildError> {
        self.session += 1;
        boot_page::begin_session(&self.ram, self.session)?;
        // Fails only when it is full of wake-ups already.
        let _ = self.events.call.write(1);
        Ok(())
    }
}

/// Sets the processor's state. Returns the features that the guest sees.
fn begin(vcpu: &VcpuFd, cpuid: Cpuid, layout: &Layout, begins: Begins) -> Result<Cpuid, BuildError> {
    let tables = layout.tables.start;
    match begins {
        Begins::At(entry) => {
            registers::enter(vcpu, &cpuid, tables, entry, layout.stack.end)?;
            Ok(cpuid)
        }
        Begins::In(state) => {
            let MachineState { processor, cpuid: saved, .. } = *state;
            if saved != cpuid {
                // The program goes on seeing what it saw.
                registers::set_cpuid(vcpu, &saved)?;
            }
            processor.restore(vcpu, registers::ring3(vcpu, &saved, tables)?)?;
            Ok(saved)
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "x86-64 only")]
const fn address(address: u64) -> usize {
    address as usize
}

fn start_clock(fd: &VcpuFd) -> Result<GuestClock, BuildError> {
    let khz = fd.get_tsc_khz().map_err(host("ask for the counter's frequency"))?;
    GuestClock::start(khz).ok_or(BuildError::Clock)
}

fn entropy() -> Result<[u8; 64], BuildError> {
    let mut bytes = [0; 64];
    // Up to 256 bytes come in one piece (getrandom(2)).
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(64) => Ok(bytes),
        Ok(_) => Err(host("get entropy")(errno::Error::new(libc::EIO))),
        Err(error) => Err(host("get entropy")(errno::Error::new(error.raw_os_error()))),
    }
}
