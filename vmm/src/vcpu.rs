//! The run loop of a district's only vCPU.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use district_protocol::layout::PROGRAM_BASE;
use district_protocol::shim::{EXIT, EXIT_MESSAGE_MAX, NO_DEADLINE, PARK};
use kvm_bindings::{KVM_INTERNAL_ERROR_EMULATION, kvm_regs};
use kvm_ioctls::{SyncReg, VcpuExit, VcpuFd, VmFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsRawFd, BorrowedFd};
use rustix::io::Errno;

use crate::channel::{ANSWER_TIMEOUT, Channel, Events, Written};
use crate::clock::GuestClock;
use crate::cpuid::Cpuid;
use crate::kick::Kick;
use crate::memory::Ram;
use crate::pause::{Pause, Source};
use crate::report::{Ended, Fault};
use crate::shim::{CALL_FRAME, CALL_RIP, CALL_VECTOR, FAULT_FRAME};
use crate::state::Layout;

/// A vCPU ready to run, with what serves its exits.
pub(crate) struct Vcpu {
    pub(crate) fd: VcpuFd,
    pub(crate) vm: Arc<VmFd>,
    pub(crate) cpuid: Cpuid,
    pub(crate) layout: Layout,
    pub(crate) pause: Arc<Pause>,
    pub(crate) ram: Arc<Ram>,
    pub(crate) channel: Arc<Mutex<Channel>>,
    pub(crate) events: Arc<Events>,
    pub(crate) kick: Arc<Kick>,
    pub(crate) clock: GuestClock,
}

/// The channel, also after a panic in the other thread: that one is what ends the process.
pub(crate) fn lock(channel: &Mutex<Channel>) -> MutexGuard<'_, Channel> {
    channel.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The guest writes to `address`. Returns when it may go on; false: that is not the device.
fn write(channel: &Mutex<Channel>, kick: &Kick, address: u64, data: &[u8]) -> bool {
    // A variable of its own, so that the lock is not held while it waits.
    let written = lock(channel).write(address, data);
    match written {
        Written::Elsewhere => return false,
        Written::Done => {}
        Written::Parting(parting) => parting.wait(&ANSWER_TIMEOUT, || kick.is_stopping()),
    }
    true
}

fn failed(error: String) -> Option<Ended> {
    Some(Ended::Failed { error })
}

impl Vcpu {
    /// Runs the guest until its life is over.
    pub(crate) fn run(&mut self) -> Ended {
        // KVM writes the registers beside the exit reason: asking for them costs a system call more.
        self.fd.set_sync_valid_reg(SyncReg::Register);
        loop {
            if self.kick.is_stopping() {
                return Ended::Stopped;
            }
            if let Some(ended) = self.step() {
                return ended;
            }
        }
    }

    /// Enters the guest once and serves what it came out for.
    fn step(&mut self) -> Option<Ended> {
        self.pause.runs();
        let served = match self.fd.run() {
            Ok(VcpuExit::Hlt) => return self.halted(),
            Ok(VcpuExit::MmioRead(address, data)) => lock(&self.channel).read(address, data),
            Ok(VcpuExit::MmioWrite(address, data)) => write(&self.channel, &self.kick, address, data),
            Ok(VcpuExit::InternalError) => return self.internal_error(),
            Ok(exit) => return failed(format!("kvm left the guest with {exit:?}")),
            // Only here, and in a park, is the state complete: an exit for the device is so when the guest is entered
            // again (Linux `Documentation/virt/kvm/api.rst`, `KVM_RUN`).
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                self.look_around();
                return None;
            }
            Err(error) => return failed(format!("kvm does not run the guest: {error}")),
        };
        if served { None } else { failed("kvm reports an access outside the device page".into()) }
    }

    /// The vCPU is out of the guest, and its state is complete: does what another thread has asked for.
    fn look_around(&self) {
        self.kick.is_out();
        if !self.pause.is_ordered() {
            return;
        }
        let begin = Instant::now();
        if let Some(order) = self.pause.take() {
            let Self { vm, fd: vcpu, ram, cpuid, layout, .. } = self;
            let captured = Source { vm, vcpu, ram, cpuid, layout }.capture(order);
            self.pause.answer(captured, begin.elapsed());
        }
    }

    /// The guest has stopped in the shim.
    fn halted(&mut self) -> Option<Ended> {
        let regs = self.fd.sync_regs().regs;
        if regs.rip != CALL_RIP {
            return Some(self.fault(FAULT_FRAME));
        }
        // eax: the upper half of rax is not part of the number.
        match regs.rax & 0xffff_ffff {
            number if number == u64::from(PARK) => self.park(regs.rdi),
            number if number == u64::from(EXIT) => Some(self.exit(&regs)),
            _ => Some(self.fault(CALL_FRAME)),
        }
    }

    /// Waits until the daemon has something for the guest, or its clock shows `deadline`, or it is to stop.
    fn park(&self, deadline: u64) -> Option<Ended> {
        while !self.kick.is_stopping() {
            let left = (deadline != NO_DEADLINE).then(|| self.clock.until(deadline));
            // SAFETY: `borrow_raw` wants a descriptor that stays open: it is `self`'s.
            let call = unsafe { BorrowedFd::borrow_raw(self.events.call.as_raw_fd()) };
            // SAFETY: as above.
            let attention = unsafe { BorrowedFd::borrow_raw(self.events.attention.as_raw_fd()) };
            let mut events = [PollFd::new(&call, PollFlags::IN), PollFd::new(&attention, PollFlags::IN)];
            match poll(&mut events, left.map(timespec).as_ref()) {
                Ok(0) if left == Some(Duration::ZERO) => return None,
                Ok(0) => {}
                Ok(_) if events[0].revents().is_empty() => {
                    let _ = self.events.attention.read();
                    self.look_around();
                }
                Ok(_) => {
                    // Emptied before the guest looks at its queues, so that what comes later wakes it again. Who else
                    // could have emptied it does not matter: waking for no reason is allowed.
                    let _ = self.events.call.read();
                    lock(&self.channel).notify();
                    return None;
                }
                Err(Errno::INTR) => self.look_around(),
                Err(errno) => return failed(format!("cannot wait for the daemon: {errno}")),
            }
        }
        None
    }

    fn exit(&self, regs: &kvm_regs) -> Ended {
        let code = regs.rdi.to_le_bytes()[0];
        let length = usize::try_from(regs.rdx).unwrap_or(usize::MAX).min(EXIT_MESSAGE_MAX);
        let mut message = vec![0; length];
        let end = regs.rsi.checked_add(length as u64);
        // From memory that the program can see.
        let visible = regs.rsi >= PROGRAM_BASE && end.is_some_and(|end| end <= self.layout.heap.end);
        if !visible || self.ram.read(regs.rsi, &mut message).is_err() {
            message.clear();
        }
        Ended::Exit { code, message: String::from_utf8_lossy(&message).into_owned() }
    }

    /// What the processor pushed on the ring-0 stack, from `frame` on to its top.
    fn fault(&self, frame: u64) -> Ended {
        let word = |index: u64| self.ram.read_u64(frame + index * 8);
        let pushed = || {
            if frame == CALL_FRAME {
                return Ok((CALL_VECTOR, 0, word(0)?, word(3)?));
            }
            Ok::<_, crate::memory::MemoryError>((word(0)?.to_le_bytes()[0], word(1)?, word(2)?, word(5)?))
        };
        let (vector, error_code, rip, rsp) = match pushed() {
            Ok(pushed) => pushed,
            Err(error) => return Ended::Failed { error: error.to_string() },
        };
        let cr2 = if vector == PAGE_FAULT { self.fd.get_sregs().map_or(0, |sregs| sregs.cr2) } else { 0 };
        Ended::Fault(Fault { vector, error_code, rip, rsp, cr2 })
    }

    /// KVM gave up on the guest. What a program can bring about is an access to the device page by an instruction that
    /// KVM does not emulate. Depending on the host, KVM makes that an invalid opcode or leaves it to us; so do we.
    fn internal_error(&mut self) -> Option<Ended> {
        let regs = self.fd.sync_regs().regs;
        let run = self.fd.get_kvm_run();
        // SAFETY: `internal` is the part of the union that KVM fills for KVM_EXIT_INTERNAL_ERROR, which this is; its
        // fields are plain numbers.
        let suberror = unsafe { run.__bindgen_anon_1.internal.suberror };
        if suberror == KVM_INTERNAL_ERROR_EMULATION {
            let kvm_regs { rip, rsp, .. } = regs;
            return Some(Ended::Fault(Fault { vector: INVALID_OPCODE, error_code: 0, rip, rsp, cr2: 0 }));
        }
        failed(format!("kvm internal error {suberror} at {:#x}", regs.rip))
    }
}

/// Vector of an invalid opcode.
const INVALID_OPCODE: u8 = 6;
/// Vector of a page fault.
const PAGE_FAULT: u8 = 14;

fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX), tv_nsec: duration.subsec_nanos().into() }
}
