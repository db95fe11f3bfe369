use super::*;
use crate::cpuid::Cpuid;
use crate::state::{Layout, MachineState};
use district_protocol::layout::{PROGRAM_BASE, RAM_BASE, WINDOW_SIZE_MIN};

const MEMORY: u64 = 2 << 20;

/// A program in ring 3, with everything set that it can set.
fn processor() -> Processor {
    let mut xsave = Box::new([0; XSAVE_SIZE / 4]);
    // x87 and SSE are in use; MXCSR as it is at the start.
    xsave[XSTATE_BV] = 3;
    xsave[6] = 0x1f80;
    xsave[40] = 0xdead_beef;
    let regs = kvm_regs { rax: 1, rip: PROGRAM_BASE, rsp: u64::MAX, rflags: RFLAGS, r15: 15, ..Default::default() };
    Processor {
        regs,
        selectors: [RING3_CODE, RING3_DATA, RING3_DATA, 0, 3, RING3_DATA],
        fs_base: 0x7fff_ffff_ffff,
        gs_base: u64::MAX << 47,
        cr2: u64::MAX,
        dr6: 0xffff_0ff0,
        exception: None,
        xsave,
    }
}

fn state() -> MachineState {
    let end = RAM_BASE + MEMORY;
    let layout = Layout {
        window: WINDOW_SIZE_MIN,
        stack: PROGRAM_BASE..PROGRAM_BASE + 0x4000,
        heap: PROGRAM_BASE + 0x5000..end - 0x4000,
        tables: end - 0x4000..end,
    };
    MachineState { processor: processor(), cpuid: Cpuid::from_leaves(vec![[7, 0, 1, 2, 3, 4]; 3]), layout }
}

fn decode(change: impl Fn(&mut MachineState)) -> Result<MachineState, StateError> {
    let mut state = state();
    change(&mut state);
    MachineState::decode(&state.encode(), MEMORY)
}

#[test]
fn what_is_written_is_read() {
    assert_eq!(decode(|_| ()), Ok(state()));
    for exception in [
        Exception { vector: 14, error_code: Some(u32::MAX) },
        Exception { vector: 31, error_code: None },
        Exception { vector: 0, error_code: None },
    ] {
        let mut wanted = state();
        wanted.processor.exception = Some(exception);
        assert_eq!(decode(|state| state.processor.exception = Some(exception)), Ok(wanted));
    }
    let in_shim = |state: &mut MachineState| {
        state.processor.selectors[..2].copy_from_slice(&[RING0_CODE, 0]);
        state.processor.regs.rip = SHIM_BASE + 25;
    };
    assert!(decode(in_shim).is_ok());
}

/// Ring 0 outside of the shim, I/O privileges, breakpoints, components that nobody has: each is refused by name.
#[test]
fn what_no_program_can_bring_about_is_refused() {
    type Change = fn(&mut Processor);
    let changes: [(&str, Change); 16] = [
        ("rflags", |it| it.regs.rflags |= 1 << 9),
        ("rflags", |it| it.regs.rflags |= 3 << 12),
        ("rflags", |it| it.regs.rflags |= 1 << 17),
        ("rflags", |it| it.regs.rflags &= !2),
        ("rip", |it| it.regs.rip = 1 << 47),
        ("the base of fs", |it| it.fs_base = 1 << 63),
        ("the base of gs", |it| it.gs_base = 1 << 47),
        ("the code segment", |it| it.selectors[0] = RING0_CODE),
        ("the code segment", |it| it.selectors[..2].copy_from_slice(&[RING0_CODE, 0])),
        ("the code segment", |it| it.selectors[1] = 0),
        ("a data segment", |it| it.selectors[2] = 0x10),
        ("a data segment", |it| it.selectors[5] = 0x28),
        ("dr6", |it| it.dr6 = 1 << 32),
        ("the exception", |it| it.exception = Some(Exception { vector: 32, error_code: None })),
        ("the header of the xsave area", |it| it.xsave[XSTATE_BV] |= 1 << 9),
        ("the header of the xsave area", |it| it.xsave[XSTATE_BV + 2] = 1),
    ];
    for (wanted, change) in changes {
        match decode(|state| change(&mut state.processor)) {
            Err(StateError::Impossible { what, .. }) => assert_eq!(what, wanted),
            other => panic!("{wanted}: {other:?}"),
        }
    }
}

#[test]
fn memory_that_is_laid_out_like_no_districts_is_refused() {
    type Change = fn(&mut Layout);
    let changes: [Change; 8] = [
        |it| it.window = 0,
        |it| it.window = u64::MAX - 4095,
        |it| it.stack.start = 0,
        |it| it.stack.end = it.heap.end,
        |it| it.heap.end += 4096,
        |it| it.heap.start += 8,
        |it| it.tables.end += 4096,
        |it| it.tables.start = it.tables.end,
    ];
    for (index, change) in changes.into_iter().enumerate() {
        assert!(decode(|state| change(&mut state.layout)).is_err(), "change {index}");
    }
    let bytes = state().encode();
    assert!(MachineState::decode(&bytes, MEMORY + 4096).is_err());
    assert!(MachineState::decode(&bytes, u64::MAX).is_err());
}

#[test]
fn cut_off_or_lengthened_states_are_refused() {
    let bytes = state().encode();
    for length in 0..bytes.len() {
        assert!(MachineState::decode(&bytes[..length], MEMORY).is_err(), "{length}");
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert_eq!(MachineState::decode(&longer, MEMORY), Err(StateError::Damaged("something follows its last piece")));
    // A piece of a later version says so before anything of it is read.
    let mut later = bytes;
    later[4] = 2;
    assert_eq!(MachineState::decode(&later, MEMORY), Err(StateError::Version { kind: 1, found: 2, known: 1 }));
}

/// Whatever the bytes are, there is an answer, and what is accepted is something that can be written again.
#[test]
fn c51_no_bytes_do_harm() {
    let bytes = state().encode();
    for at in 0..bytes.len() {
        for flip in [1, 0x80, 0xff] {
            let mut changed = bytes.clone();
            changed[at] ^= flip;
            if let Ok(state) = MachineState::decode(&changed, MEMORY) {
                assert_eq!(MachineState::decode(&state.encode(), MEMORY), Ok(state));
            }
        }
    }
}

/// The document's numbers (`docs/checkpoint-format.md`, section 11).
#[test]
fn the_document_says_the_same() {
    let document = include_str!("../../../../docs/checkpoint-format.md");
    let (_, section) = document.split_once("## 11 ").expect("section 11");
    for line in [
        "| 1 | 1 | processor |",
        "| 2 | 1 | features |",
        "| 3 | 1 | layout |",
        "| 0 | 8 each | rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8 to r15, rip, rflags |",
        "| 144 | 8 each | base of fs, base of gs, cr2, dr6 |",
        "| 176 | 4 |",
        "| 180 | 4 |",
        "| 184 | 4 each | selectors of cs, ss, ds, es, fs, gs |",
        "| 208 | up to 4096 |",
    ] {
        assert!(section.contains(line), "{line}");
    }
    let processor = Processor { exception: Some(Exception { vector: 14, error_code: Some(7) }), ..processor() };
    let mut writer = Writer::default();
    processor.encode(&mut writer);
    let bytes = &writer.finish()[12..];
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!(u64::from(word(128)), PROGRAM_BASE, "rip");
    assert_eq!(word(168), 0xffff_0ff0, "dr6");
    assert_eq!((word(176), word(180)), (0x0e03, 7));
    assert_eq!((word(184), word(188)), (RING3_CODE.into(), RING3_DATA.into()));
    assert_eq!(word(208 + 24), 0x1f80, "mxcsr");
}
