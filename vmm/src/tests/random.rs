//! Random programs, and what is known of how each must end.

use std::ops::Range;

use district_protocol::layout::{BOOT_PAGE, DEVICE_BASE, DEVICE_SIZE, GDT_BASE, PAGE_SIZE, WINDOW_BASE};

use super::{CODE, DATA, Host, is_slow, program, with_rbx};
use crate::address_space::AddressSpace;
use crate::report::{Ended, Fault};

/// Steele, Lea, Flood: Fast splittable pseudorandom number generators (SplitMix64).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::try_from(self.below(all.len() as u64)).unwrap()]
    }
}

/// What the end of a program must be like.
#[derive(Debug)]
pub(super) enum Expected {
    /// Anything that is no fault of the host's.
    AnyEnd,
    /// None; it has to be stopped.
    NoEnd,
    /// This invalid instruction at the end.
    Reaches(u64),
    /// The access at `rip` to somewhere in `bytes` is refused.
    Refused { rip: u64, bytes: Range<u64> },
}

impl Expected {
    /// Whether a program that has not ended yet is going to.
    pub(super) fn is_certain_end(&self) -> bool {
        matches!(self, Expected::Reaches(_) | Expected::Refused { .. })
    }

    /// Whether that is how a program has ended.
    pub(super) fn allows(&self, ended: &Ended) -> bool {
        match (self, ended) {
            (_, Ended::Failed { .. }) => false,
            // Whatever ends a program happens in ring 3, and has a vector of the processor's.
            (_, Ended::Fault(Fault { vector: 14, error_code, rip, .. })) if error_code & 4 == 0 => {
                // QEMU's software processor pops what a far return takes as if it were the kernel, which SMAP forbids.
                matches!(self, Expected::AnyEnd) && is_slow() && (CODE..CODE + PAGE_SIZE).contains(rip)
            }
            (_, Ended::Fault(Fault { vector: 32.., .. })) => false,
            (Expected::AnyEnd, _) => true,
            (Expected::NoEnd, ended) => *ended == Ended::Stopped,
            (Expected::Reaches(end), Ended::Fault(fault)) => (fault.vector, fault.rip) == (6, *end),
            (Expected::Refused { rip, bytes }, Ended::Fault(fault)) => {
                // Addresses that are none have no page to fault; what goes past the device's end KVM does not emulate.
                let canonical = bytes.end <= 1 << 47;
                let is_address = fault.vector == 14 && bytes.contains(&fault.cr2);
                let is_device = fault.vector == 6 && bytes.contains(&(DEVICE_BASE + DEVICE_SIZE - 1));
                fault.rip == *rip && (is_address || is_device || !canonical && matches!(fault.vector, 12..=14))
            }
            _ => false,
        }
    }
}

/// A program and its end.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) code: Vec<u8>,
    pub(super) expected: Expected,
}

impl Case {
    /// The case that this number stands for.
    pub(super) fn new(host: &Host, seed: u64) -> Case {
        let random = &mut Random(seed);
        let any = |name, code| Case { name, code, expected: Expected::AnyEnd };
        match random.below(6) {
            0 => any("random bytes", page(random, noise)),
            1 => any("random instructions", page(random, instruction)),
            2 => any("attack on ring 0", page(random, attack)),
            3 => memory_access(host, random),
            4 => device_accesses(random),
            _ => endless_loop(random),
        }
    }
}

/// A page full of pieces.
fn page(random: &mut Random, mut piece: impl FnMut(&mut Random, &mut Vec<u8>)) -> Vec<u8> {
    let mut page = Vec::new();
    while page.len() < 4096 - 32 {
        piece(random, &mut page);
    }
    page
}

fn noise(random: &mut Random, page: &mut Vec<u8>) {
    let word = random.next();
    page.extend_from_slice(&word.to_le_bytes()[..1 + (word >> 8) as usize % 8]);
}

/// Instructions that touch something, among others.
fn instruction(random: &mut Random, page: &mut Vec<u8>) {
    const PIECES: [&[u8]; 16] = [
        &[0xcc],
        &[0xb8, 1, 0, 0, 0, 0xcc],
        &[0x0f, 0x05],
        &[0xcd, 0x03],
        &[0x9d],
        &[0x48, 0xcf],
        &[0x48, 0xcb],
        &[0x8b, 0x04, 0x25, 0x70, 0, 0, 0x10],
        &[0x89, 0x04, 0x25, 0x70, 0, 0, 0x10],
        &[0x89, 0x04, 0x25, 0x50, 0, 0, 0x10],
        &[0x8e, 0xd0],
        &[0x8e, 0xe0],
        &[0xf3, 0x48, 0x0f, 0xae, 0xd0],
        &[0x54],
        &[0x5c],
        &[0xf1],
    ];
    if random.below(4) == 0 { noise(random, page) } else { page.extend_from_slice(random.one_of(&PIECES)) }
}

/// What a triple fault takes: an exception that the processor cannot deliver, or tables that are not what they were. First
/// a bad place for the stack, odd flags or odd segments; then an instruction that should never work or an exception.
fn attack(random: &mut Random, page: &mut Vec<u8>) {
    const BLOWS: [&[u8]; 16] = [
        &[0x0f, 0x0b],             // ud2
        &[0x0f, 0x01, 0x14, 0x24], // lgdt [rsp]
        &[0x0f, 0x01, 0x1c, 0x24], // lidt [rsp]
        &[0x0f, 0x00, 0xd8],       // ltr ax
        &[0x0f, 0x00, 0xd0],       // lldt ax
        &[0x0f, 0x22, 0xd8],       // mov cr3, rax
        &[0x0f, 0x22, 0xc0],       // mov cr0, rax
        &[0x0f, 0x22, 0xe0],       // mov cr4, rax
        &[0x0f, 0x30],             // wrmsr
        &[0x48, 0xcf],             // iretq
        &[0x48, 0x0f, 0x07],       // sysretq
        &[0x0f, 0x05],             // syscall
        &[0x0f, 0x34],             // sysenter
        &[0xf4],                   // hlt
        &[0x0f, 0x01, 0xf8],       // swapgs
        &[0x31, 0xc9, 0xf7, 0xf1], // xor ecx, ecx; div ecx
    ];
    match random.below(4) {
        0 => {
            // mov rsp, address
            page.extend_from_slice(&[0x48, 0xbc]);
            page.extend_from_slice(&address(random).to_le_bytes());
        }
        1 => {
            // push flags; popfq
            page.push(0x68);
            page.extend_from_slice(&random.next().to_le_bytes()[..4]);
            page.push(0x9d);
        }
        2 => {
            // mov eax, selector; mov ss, ds, es, fs or gs, eax
            page.push(0xb8);
            page.extend_from_slice(&(random.next() & 0xffff).to_le_bytes()[..4]);
            page.extend_from_slice(&[0x8e, random.one_of(&[0xd0, 0xd8, 0xc0, 0xe0, 0xe8])]);
        }
        // int vector
        _ => page.extend_from_slice(&[0xcd, random.next().to_le_bytes()[0]]),
    }
    page.extend_from_slice(random.one_of(&BLOWS));
}

/// Near something, or anywhere.
fn address(random: &mut Random) -> u64 {
    let near = random.one_of(&[
        0,
        DEVICE_BASE,
        WINDOW_BASE,
        GDT_BASE,
        BOOT_PAGE,
        CODE,
        DATA,
        0x4010_0000,
        0x4020_0000,
        1 << 47,
    ]);
    match random.below(4) {
        0 => random.next(),
        1 => random.next() >> 17,
        2 => near.wrapping_add(random.below(0x8000)).wrapping_sub(0x4000),
        _ => near.wrapping_add(random.below(16)).wrapping_sub(8),
    }
}

/// Where a program may read, write and execute.
fn may(host: &Host, access: Access, address: u64) -> bool {
    let start = host.start();
    let image = crate::loader::Image::read(&program(&[0xf4]).file()).unwrap();
    let space = AddressSpace::new(&image, start.memory, start.window).unwrap();
    let page = |base| base..base + PAGE_SIZE;
    let within = |all: &[Range<u64>]| all.iter().any(|range| range.contains(&address));
    match access {
        Access::Execute => within(&[page(CODE)]),
        Access::Read if within(&[page(CODE), page(BOOT_PAGE)]) => true,
        _ => within(&[page(DEVICE_BASE), page(DATA), space.window, space.stack, space.heap]),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
    Execute,
}

fn memory_access(host: &Host, random: &mut Random) -> Case {
    let address = address(random);
    let (access, len, instruction): (_, _, &[u8]) = random.one_of(&[
        (Access::Read, 8, &[0x48, 0x8b, 0x03][..]),
        (Access::Read, 1, &[0x8a, 0x03]),
        (Access::Write, 8, &[0x48, 0x89, 0x03]),
        (Access::Write, 1, &[0x88, 0x03]),
        (Access::Execute, 1, &[0xff, 0xe3]),
    ]);
    let mut code = with_rbx(address, instruction);
    let end = CODE + code.len() as u64;
    code.extend_from_slice(&[0x0f, 0x0b]);
    let bytes = address..address.saturating_add(len);
    let is_allowed = (0..len).all(|offset| may(host, access, address.wrapping_add(offset)));
    let expected = match access {
        Access::Execute if is_allowed => Expected::AnyEnd,
        // A jump to what is no address may be the jump's fault or that of its target.
        Access::Execute if address >= 1 << 47 => Expected::AnyEnd,
        Access::Execute => Expected::Refused { rip: address, bytes },
        _ if is_allowed => Expected::Reaches(end),
        _ => Expected::Refused { rip: end - instruction.len() as u64, bytes },
    };
    Case { name: "memory access", code, expected }
}

/// Loads from and stores to the device page in all widths, mostly of what there is.
fn device_accesses(random: &mut Random) -> Case {
    let mut code = with_rbx(DEVICE_BASE, &[]);
    for _ in 0..1 + random.below(40) {
        let registers = [0x14, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x70, 0x70, 0x70, 0x80, 0x90, 0xa0];
        let offset = if random.below(3) == 0 { random.below(PAGE_SIZE - 8) } else { random.one_of(&registers) };
        let value = match random.below(4) {
            0 => random.next(),
            1 => WINDOW_BASE + random.below(0x1_0000),
            2 => random.one_of(&[0, 1, 2, 3, 8, 11, 15, 0x2000_0000]),
            _ => 1 << random.below(32),
        };
        // The opcode, and how many bytes of immediate data it has.
        let (opcode, immediate): (&[u8], usize) = random.one_of(&[
            (&[0xc7][..], 4),
            (&[0xc7], 4),
            (&[0xc6], 1),
            (&[0x66, 0xc7], 2),
            (&[0x48, 0xc7], 4),
            (&[0x8b], 0),
            (&[0x48, 0x8b], 0),
            (&[0x8a], 0),
        ]);
        code.extend_from_slice(opcode);
        // [rbx + offset]
        code.push(0x83);
        code.extend_from_slice(&offset.to_le_bytes()[..4]);
        code.extend_from_slice(&value.to_le_bytes()[..immediate]);
    }
    let expected = Expected::Reaches(CODE + code.len() as u64);
    code.extend_from_slice(&[0x0f, 0x0b]);
    Case { name: "device accesses", code, expected }
}

fn endless_loop(random: &mut Random) -> Case {
    const BODIES: [&[u8]; 6] = [
        &[],
        &[0xf3, 0x90],                                     // pause
        &[0x8b, 0x04, 0x25, 0x70, 0, 0, 0x10],             // mov eax, [0x10000070]
        &[0xc7, 0x04, 0x25, 0x70, 0, 0, 0x10, 0, 0, 0, 0], // mov dword ptr [0x10000070], 0
        &[0x31, 0xff, 0xb8, 1, 0, 0, 0, 0xcc],             // park until 1970
        &[0x48, 0xff, 0x04, 0x25, 0, 0, 0x02, 0x40],       // inc qword ptr [0x40020000]
    ];
    let mut code = Vec::new();
    for _ in 0..random.below(4) {
        code.extend_from_slice(random.one_of(&BODIES));
    }
    // jmp to the first byte
    code.push(0xe9);
    let back = -i32::try_from(code.len() + 4).unwrap();
    code.extend_from_slice(&back.to_le_bytes());
    Case { name: "endless loop", code, expected: Expected::NoEnd }
}
