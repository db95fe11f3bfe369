//! Checkpoints of running guests, and guests that go on from them.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use district_checkpoint::{SegmentHeader, SegmentWriter};
use district_protocol::boot::StartReason;
use tempfile::TempDir;

use super::{DATA, Guest, Host, exited, guest, program};
use crate::checkpoint::{CheckpointError, Checkpointer};
use crate::control::{Beginning, Checkpointed, Checkpoints, Start};
use crate::machine::{BuildError, Handle};
use crate::memory::Ram;
use crate::origin::Origin;
use crate::report::Ended;

/// A guest that runs, and what takes its checkpoints.
struct Subject {
    checkpointer: Checkpointer,
    ram: Arc<Ram>,
    handle: Handle,
    thread: Arc<JoinHandle<()>>,
    ended: std::sync::mpsc::Receiver<Ended>,
}

const PLAN: Checkpoints = Checkpoints { next_generation: 1, parent: 0, every_ms: 0, dirty_pages: 0 };

fn segment(path: &Path, start: &Start, number: u64, floor: u64) -> SegmentWriter<File> {
    let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
    let header = SegmentHeader { memory_size: start.memory, lineage: [3; 16], number, salt: number * 77, floor };
    SegmentWriter::create(file, &header).unwrap()
}

impl Subject {
    fn new(start: &Start, origin: Origin, log: SegmentWriter<File>) -> Result<Self, BuildError> {
        let plan = start.checkpoints.unwrap();
        let Guest { mut machine, handle, .. } = Guest::from(start, origin)?;
        let (report, ended) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let end = machine.run();
            machine.close();
            report.send(end).unwrap();
        });
        let thread = Arc::new(thread);
        let parts = handle.checkpoint_parts(Arc::clone(&thread));
        let checkpointer = Checkpointer::new(parts, Some(log), start.epoch, &plan);
        Ok(Self { checkpointer, ram: handle.ram(), handle, thread, ended })
    }

    fn take(&mut self) -> Checkpointed {
        self.checkpointer.take().unwrap()
    }

    fn wait_for(&self, address: u64, wanted: impl Fn(u64) -> bool) {
        while !wanted(self.ram.read_u64(address).unwrap()) {
            std::thread::yield_now();
        }
    }

    fn stop(self) {
        self.handle.stop(&self.thread).unwrap();
        self.end();
    }

    fn end(self) -> Ended {
        self.ended.recv_timeout(Duration::from_secs(30)).unwrap()
    }
}

/// A folder with the segments of one lineage.
struct Lives {
    folder: TempDir,
    segments: u64,
    start: Start,
}

impl Lives {
    fn new(host: &Host) -> Self {
        let start = Start { checkpoints: Some(PLAN), ..host.start() };
        Self { folder: tempfile::tempdir().unwrap(), segments: 0, start }
    }

    fn path(&self, number: u64) -> std::path::PathBuf {
        self.folder.path().join(format!("log.{number}"))
    }

    fn begin(&mut self, code: &[u8]) -> Subject {
        self.segments += 1;
        let log = segment(&self.path(self.segments), &self.start, self.segments, 0);
        Subject::new(&self.start, Origin::Program(program(code).file()), log).unwrap()
    }

    /// The next life, from a checkpoint, without an image.
    fn go_on(&mut self, generation: u64) -> Result<Subject, BuildError> {
        let files = (1..=self.segments).map(|number| File::open(self.path(number)).unwrap()).collect::<Vec<_>>();
        let newest = u64::from(u32::MAX).min(1000 * self.segments);
        self.segments += 1;
        let plan = Checkpoints { next_generation: newest + 1, parent: generation, ..PLAN };
        let start = Start {
            epoch: self.start.epoch + self.segments,
            reason: StartReason::Crash as u32,
            generation,
            checkpoints: Some(plan),
            from: Beginning::Checkpoint { image: false, segments: 1, verify: true },
            ..self.start.clone()
        };
        let log = segment(&self.path(self.segments), &start, self.segments, newest);
        Subject::new(&start, Origin::Checkpoint { image: None, verify: true, segments: files }, log)
    }
}

guest!(
    count_with_everything,
    // Four ways to count that must agree: memory, a general register, SSE and AVX lanes, the x87 stack; and one that
    // swaps its stack pointer between two stacks in each round.
    "mov rsp, 0x40020800",
    "mov r12, 0x40020400",
    "xor ebx, ebx",
    "mov eax, 1",
    "movq xmm1, rax",
    "pxor xmm0, xmm0",
    "fldz",
    "2: inc rbx",
    "paddq xmm0, xmm1",
    "vpxor xmm5, xmm5, xmm5",
    "fld1",
    "faddp",
    "xchg rsp, r12",
    "push rbx",
    "lock inc qword ptr [0x40020000]",
    "pop rcx",
    "cmp rcx, rbx",
    "jne 9f",
    "movq rax, xmm0",
    "cmp rax, rbx",
    "jne 9f",
    "cmp [0x40020000], rbx",
    "jne 9f",
    "fst qword ptr [0x40020100]",
    "cvttsd2si rax, qword ptr [0x40020100]",
    "cmp rax, rbx",
    "jne 9f",
    // The epoch in the boot page is where the test sees that it is another life.
    "mov rax, [0x40005020]",
    "mov [0x40020008], rax",
    "jmp 2b",
    "9: mov eax, 2",
    "mov edi, 99",
    "xor edx, edx",
    "int3",
);

#[test]
fn a_guest_goes_on_a_hundred_times_from_the_middle_of_its_arithmetic() {
    let Some(host) = Host::get() else { return };
    let mut lives = Lives::new(host);
    let mut subject = lives.begin(count_with_everything());
    subject.wait_for(DATA, |count| count > 1000);
    let mut generation = subject.take().generation;
    let mut seen = subject.ram.read_u64(DATA).unwrap();
    subject.stop();
    for life in 0..100 {
        let mut subject = lives.go_on(generation).unwrap();
        let epoch = 7 + lives.segments;
        subject.wait_for(DATA + 8, |found| found == epoch);
        subject.wait_for(DATA, |count| count > 100);
        let before = subject.ram.read_u64(DATA).unwrap();
        let checkpoint = subject.take();
        assert!(checkpoint.generation > generation && checkpoint.parent == generation, "{life}: {checkpoint:?}");
        generation = checkpoint.generation;
        assert!(before + 1_000_000_000 > seen);
        seen = subject.ram.read_u64(DATA).unwrap();
        // It has gone on after it was stopped, and found nothing wrong.
        subject.wait_for(DATA, |count| count > seen);
        subject.stop();
        // Only the newest two are needed: each life writes all that it dirtied.
    }
}

guest!(
    park_for_ever,
    "mov dword ptr [0x40020000], 1",
    "mov eax, 1",
    "mov rdi, -1",
    "int3",
    // Whatever woke it: the epoch.
    "mov edi, [0x40005020]",
    "mov eax, 2",
    "xor edx, edx",
    "int3",
);

#[test]
fn c03_a_parked_guest_is_not_woken_by_a_checkpoint_and_is_by_a_restore() {
    let Some(host) = Host::get() else { return };
    let mut lives = Lives::new(host);
    let mut subject = lives.begin(park_for_ever());
    subject.wait_for(DATA, |word| word == 1);
    // It is on its way to the park, or in it; each of them is a state to go on from.
    let generations: Vec<_> = (0..20)
        .map(|round| {
            std::thread::sleep(Duration::from_micros(50 * round));
            subject.take().generation
        })
        .collect();
    assert_eq!(subject.ended.try_recv().ok(), None, "a checkpoint is nothing that a guest can see");
    subject.stop();
    for generation in generations {
        let subject = lives.go_on(generation).unwrap();
        let epoch = 7 + lives.segments;
        assert_eq!(subject.end(), exited(u8::try_from(epoch).unwrap()));
    }
}

guest!(
    fill_memory,
    // Writes its round to each page of the heap, over and over; says in each round which it was.
    "mov rsi, [rdi + 88]",
    "mov r8, [rdi + 96]",
    "xor ebx, ebx",
    "3: inc rbx",
    "xor ecx, ecx",
    "4: mov [rsi + rcx], rbx",
    "mov [rsi + rcx + 4088], rbx",
    "add rcx, 4096",
    "cmp rcx, r8",
    "jb 4b",
    "mov [0x40020000], rbx",
    "jmp 3b",
);

/// Each page of a checkpoint is as it was at one instant: in a memory that is filled upwards, round after round, the rounds
/// fall once at most.
#[test]
fn a_checkpoint_is_of_one_instant() {
    let Some(host) = Host::get() else { return };
    let mut lives = Lives::new(host);
    lives.start.memory = 32 << 20;
    let mut subject = lives.begin(fill_memory());
    subject.wait_for(DATA, |round| round > 2);
    let checkpoints: Vec<_> = (0..5).map(|_| subject.take()).collect();
    subject.stop();
    for checkpoint in checkpoints {
        let Guest { handle, .. } = restored(&mut lives, checkpoint.generation);
        let ram = handle.ram();
        let boot = district_protocol::layout::BOOT_PAGE;
        let (heap, size) = (ram.read_u64(boot + 88).unwrap(), ram.read_u64(boot + 96).unwrap());
        let rounds: Vec<_> = (0..size / 4096).map(|page| ram.read_u64(heap + page * 4096).unwrap()).collect();
        let falls = rounds.windows(2).filter(|pair| pair[1] != pair[0]).count();
        let (first, last) = (rounds[0], rounds[rounds.len() - 1]);
        assert!(falls <= 1 && (first == last || first == last + 1), "generation {}", checkpoint.generation);
        // A page is whole, but for the one that was being written.
        let torn = (0..size / 4096).filter(|page| {
            let page = heap + page * 4096;
            ram.read_u64(page).unwrap() != ram.read_u64(page + 4088).unwrap()
        });
        assert!(torn.count() <= 1);
    }
}

/// A machine with the memory of a checkpoint, which does not run.
fn restored(lives: &mut Lives, generation: u64) -> Guest {
    let files = (1..=lives.segments).map(|number| File::open(lives.path(number)).unwrap()).collect::<Vec<_>>();
    let start = Start { generation, ..lives.start.clone() };
    Guest::from(&start, Origin::Checkpoint { image: None, verify: true, segments: files }).unwrap()
}

#[test]
fn what_has_not_changed_is_not_written_again() {
    let Some(host) = Host::get() else { return };
    let mut lives = Lives::new(host);
    let mut subject = lives.begin(park_for_ever());
    subject.wait_for(DATA, |word| word == 1);
    assert_eq!(subject.checkpointer.unchanged(), None);
    // Until it has arrived in its park.
    let mut generation = subject.take().generation;
    while subject.checkpointer.unchanged().is_none() {
        generation = subject.take().generation;
    }
    assert_eq!(subject.checkpointer.unchanged(), Some(generation));
    subject.handle.call().write(1).unwrap();
    assert_eq!(subject.end(), exited(7));
}

/// A page that had something in it once and is zero now is so after a restore, too.
#[test]
fn zeros_are_restored() {
    let Some(host) = Host::get() else { return };
    let mut lives = Lives::new(host);
    let mut subject = lives.begin(park_for_ever());
    subject.wait_for(DATA, |word| word == 1);
    let first = subject.take();
    assert!(first.zero_pages < first.data_pages, "{first:?}");
    subject.stop();
    let ram = restored(&mut lives, first.generation).ram();
    assert_eq!(ram.read_u64(DATA).unwrap(), 1);
    assert_eq!(ram.read_u64(DATA + 8).unwrap(), 0);
}

/// c49: what cannot be written is no checkpoint, the guest goes on, and the next one has all of it.
#[test]
fn c49_a_log_that_cannot_be_written_is_reported_and_nothing_is_lost() {
    let Some(host) = Host::get() else { return };
    let mut lives = Lives::new(host);
    let mut subject = lives.begin(count_with_everything());
    subject.wait_for(DATA, |count| count > 10);
    let good = subject.take();
    // A descriptor that can only be read: each write fails.
    let path = lives.folder.path().join("log.9");
    drop(segment(&path, &lives.start, 9, good.generation));
    subject.checkpointer.set_log(SegmentWriter::open(File::open(&path).unwrap()).unwrap());
    let before = subject.ram.read_u64(DATA).unwrap();
    for _ in 0..2 {
        let error = subject.checkpointer.take().unwrap_err();
        assert!(error.needs_log(), "{error}");
    }
    std::fs::remove_file(path).unwrap();
    lives.segments += 1;
    let log = segment(&lives.path(lives.segments), &lives.start, lives.segments, good.generation);
    subject.checkpointer.set_log(log);
    subject.wait_for(DATA, |count| count > before);
    let next = subject.take();
    assert_eq!(next.parent, good.generation);
    assert!(next.generation > good.generation + 1, "numbers of failed ones are not used again");
    subject.stop();
    let subject = lives.go_on(next.generation).unwrap();
    let epoch = 7 + lives.segments;
    subject.wait_for(DATA + 8, |found| found == epoch);
    assert!(subject.ram.read_u64(DATA).unwrap() > before);
    subject.stop();
}

#[test]
fn a_guest_that_has_ended_has_no_checkpoints_any_more() {
    let Some(host) = Host::get() else { return };
    let mut lives = Lives::new(host);
    let mut subject = lives.begin(park_for_ever());
    subject.wait_for(DATA, |word| word == 1);
    subject.handle.call().write(1).unwrap();
    assert_eq!(subject.ended.recv().unwrap(), exited(7));
    assert!(matches!(subject.checkpointer.take(), Err(CheckpointError::Over)));
}

#[test]
fn sizes_and_generations_that_do_not_fit_are_refused() {
    let Some(host) = Host::get() else { return };
    let mut lives = Lives::new(host);
    let mut subject = lives.begin(park_for_ever());
    subject.wait_for(DATA, |word| word == 1);
    let generation = subject.take().generation;
    subject.stop();
    let refused = |change: &dyn Fn(&mut Start)| {
        let mut start = Start { generation, ..lives.start.clone() };
        change(&mut start);
        let origin =
            Origin::Checkpoint { image: None, verify: true, segments: vec![File::open(lives.path(1)).unwrap()] };
        Guest::from(&start, origin).err().map(|error| error.to_string())
    };
    assert_eq!(refused(&|_| {}), None);
    let error = refused(&|start| start.memory *= 2).unwrap();
    assert!(error.contains("bytes of memory, and 4194304 are asked for"), "{error}");
    let error = refused(&|start| start.window *= 2).unwrap();
    assert!(error.contains("bytes of window, and"), "{error}");
    let error = refused(&|start| start.generation += 1).unwrap();
    assert!(error.contains("checkpoint: "), "{error}");
}
