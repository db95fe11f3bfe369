//! The state of a processor that runs a program in ring 3, or waits for it in the shim.

use district_protocol::layout::{PAGE_SIZE, SHIM_BASE};
use kvm_bindings::{
    KVM_VCPUEVENT_VALID_NMI_PENDING, kvm_debugregs, kvm_regs, kvm_segment, kvm_sregs, kvm_vcpu_events, kvm_xsave,
};
use kvm_ioctls::VcpuFd;

use super::StateError;
use super::sections::{Content, Reader, Section, Writer};
use crate::registers::RegisterError;
use crate::tables::{RING0_CODE, RING3_CODE, RING3_DATA};

const SECTION: Section = Section { kind: 1, version: 1 };

/// Bytes of an XSAVE area as KVM hands it out (Linux `Documentation/virt/kvm/api.rst`, `KVM_GET_XSAVE`).
const XSAVE_SIZE: usize = 4096;
/// Where in it the components that are in use are listed (Intel SDM volume 1, 13.4.2), in 32-bit words.
const XSTATE_BV: usize = 512 / 4;
/// Words of the header after `XSTATE_BV`, which are zero in the standard format.
const XSAVE_HEADER_REST: std::ops::Range<usize> = XSTATE_BV + 2..576 / 4;
/// What code in ring 3 can put there: x87, SSE, AVX and, where the list of features does not bind it, AVX-512.
const XSAVE_COMPONENTS: u64 = 0b1110_0111;
/// Protection keys: listed by KVM on some hosts though no district can use them.
const XSAVE_PKRU: u64 = 1 << 9;

/// Flags that code in ring 3 can set (Intel SDM volume 1, 3.4.3), with the one that is always set.
const RFLAGS: u64 = 0x0025_4dd5 | RFLAGS_FIXED;
const RFLAGS_FIXED: u64 = 1 << 1;
/// DR7 when no breakpoint is on (Intel SDM volume 3, 18.2.4). Ring 3 cannot turn one on.
const DR7_NONE: u64 = 0x400;
/// Last vector of an exception.
const VECTOR_MAX: u8 = 31;

/// Registers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Processor {
    regs: kvm_regs,
    /// Selectors of CS, SS, DS, ES, FS, GS.
    selectors: [u16; 6],
    fs_base: u64,
    gs_base: u64,
    cr2: u64,
    /// DR6, the only debug register that anything in a district changes.
    dr6: u64,
    exception: Option<Exception>,
    /// The XSAVE area in standard format, as 32-bit words.
    xsave: Box<[u32; XSAVE_SIZE / 4]>,
}

/// One that the processor has met and not yet told the shim of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Exception {
    vector: u8,
    error_code: Option<u32>,
}

const fn is_canonical(address: u64) -> bool {
    address < 1 << 47 || address >= u64::MAX << 47
}

impl Processor {
    pub(super) fn save(vcpu: &VcpuFd) -> Result<Self, RegisterError> {
        let refused = |what| move |source| RegisterError::get(what, source);
        let regs = vcpu.get_regs().map_err(refused("registers"))?;
        let kvm_sregs { cs, ss, ds, es, fs, gs, cr2, .. } = vcpu.get_sregs().map_err(refused("system registers"))?;
        let events = vcpu.get_vcpu_events().map_err(refused("events"))?;
        let dr6 = vcpu.get_debug_regs().map_err(refused("debug registers"))?.dr6;
        let xsave = vcpu.get_xsave().map_err(refused("xsave area"))?;
        let mut area = Box::new([0; XSAVE_SIZE / 4]);
        area.copy_from_slice(&xsave.region);
        let components = components(&area) & !XSAVE_PKRU;
        area[XSTATE_BV..XSTATE_BV + 2].copy_from_slice(&halves(components));
        let exception = events.exception;
        let exception = (exception.injected != 0 || exception.pending != 0).then_some(Exception {
            vector: exception.nr,
            error_code: (exception.has_error_code != 0).then_some(exception.error_code),
        });
        let selectors = [cs, ss, ds, es, fs, gs].map(|segment| segment.selector);
        Ok(Self { regs, selectors, fs_base: fs.base, gs_base: gs.base, cr2, dr6, exception, xsave: area })
    }

    pub(super) fn encode(&self, writer: &mut Writer) {
        let mut content = Vec::with_capacity(XSAVE_SIZE + 256);
        for word in words(&self.regs) {
            content.extend_from_slice(&word.to_le_bytes());
        }
        for word in [self.fs_base, self.gs_base, self.cr2, self.dr6] {
            content.extend_from_slice(&word.to_le_bytes());
        }
        let code = |exception: Exception| {
            let error_code = exception.error_code.unwrap_or(0);
            [1 | u32::from(exception.error_code.is_some()) << 1 | u32::from(exception.vector) << 8, error_code]
        };
        for word in self.exception.map_or([0; 2], code) {
            content.extend_from_slice(&word.to_le_bytes());
        }
        for selector in self.selectors {
            content.extend_from_slice(&u32::from(selector).to_le_bytes());
        }
        // What follows the last word that is not zero is zero.
        let used = self.xsave.iter().rposition(|word| *word != 0).map_or(0, |last| last + 1);
        for word in &self.xsave[..used] {
            content.extend_from_slice(&word.to_le_bytes());
        }
        writer.section(SECTION, &content);
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, StateError> {
        let mut content = reader.section(SECTION)?;
        let regs = registers_from(&mut content)?;
        let [fs_base, gs_base, cr2, dr6] = [content.u64()?, content.u64()?, content.u64()?, content.u64()?];
        let exception = exception_from(content.u32()?, content.u32()?)?;
        let mut selectors = [0; 6];
        for selector in &mut selectors {
            let value = content.u32()?;
            let impossible = StateError::Impossible { what: "a segment selector", value: value.into() };
            *selector = u16::try_from(value).map_err(|_| impossible)?;
        }
        let xsave = xsave_from(content)?;
        let processor = Self { regs, selectors, fs_base, gs_base, cr2, dr6, exception, xsave };
        processor.check()?;
        Ok(processor)
    }

    /// What a program can bring about, and nothing else.
    fn check(&self) -> Result<(), StateError> {
        let impossible = |what, value| Err(StateError::Impossible { what, value });
        let kvm_regs { rip, rflags, .. } = self.regs;
        if rflags & !RFLAGS != 0 || rflags & RFLAGS_FIXED == 0 {
            return impossible("rflags", rflags);
        }
        for (what, address) in [("rip", rip), ("the base of fs", self.fs_base), ("the base of gs", self.gs_base)] {
            if !is_canonical(address) {
                return impossible(what, address);
            }
        }
        let [cs, ss, data @ ..] = self.selectors;
        let in_shim = (SHIM_BASE..SHIM_BASE + PAGE_SIZE).contains(&rip);
        match (cs, ss) {
            (RING3_CODE, RING3_DATA) => {}
            (RING0_CODE, 0) if in_shim => {}
            _ => return impossible("the code segment", cs.into()),
        }
        // A program may load null selectors, whatever their lowest bits are.
        if let Some(selector) = data.iter().find(|selector| **selector != RING3_DATA && **selector > 3) {
            return impossible("a data segment", (*selector).into());
        }
        if self.dr6 >> 32 != 0 {
            return impossible("dr6", self.dr6);
        }
        let components = components(&self.xsave);
        if components & !XSAVE_COMPONENTS != 0 || self.xsave[XSAVE_HEADER_REST].iter().any(|word| *word != 0) {
            return impossible("the header of the xsave area", components);
        }
        Ok(())
    }

    /// Gives a prepared vCPU, whose system registers are those of a start, this state.
    pub(crate) fn restore(&self, vcpu: &VcpuFd, system: kvm_sregs) -> Result<(), RegisterError> {
        let refused = |what| move |source| RegisterError::set(what, source);
        // System registers first: whether the others are possible depends on them.
        vcpu.set_sregs(&self.system(system)).map_err(refused("system registers"))?;
        vcpu.set_regs(&self.regs).map_err(refused("registers"))?;
        let mut area = kvm_xsave::default();
        area.region.copy_from_slice(&*self.xsave);
        // SAFETY: `set_xsave` wants an area as large as the host's KVM reads, which is the size of `kvm_xsave` unless
        // this process has asked for larger components (Linux `Documentation/virt/kvm/api.rst`, `KVM_SET_XSAVE`); it has
        // not.
        unsafe { vcpu.set_xsave(&area) }.map_err(refused("xsave area"))?;
        let debug = kvm_debugregs { dr6: self.dr6, dr7: DR7_NONE, ..Default::default() };
        vcpu.set_debug_regs(&debug).map_err(refused("debug registers"))?;
        // Last: setting registers forgets an exception.
        vcpu.set_vcpu_events(&self.events()).map_err(refused("events"))
    }

    fn system(&self, start: kvm_sregs) -> kvm_sregs {
        let null = kvm_segment { unusable: 1, ..Default::default() };
        let [cs, ss, ds, es, fs, gs] = self.selectors;
        let data = |selector, base| {
            let segment = if selector == RING3_DATA { start.ds } else { null };
            kvm_segment { selector, base, ..segment }
        };
        let cs = if cs == RING0_CODE { kvm_segment { selector: cs, dpl: 0, ..start.cs } } else { start.cs };
        kvm_sregs {
            cs,
            ss: data(ss, 0),
            ds: data(ds, 0),
            es: data(es, 0),
            fs: data(fs, self.fs_base),
            gs: data(gs, self.gs_base),
            cr2: self.cr2,
            ..start
        }
    }

    fn events(&self) -> kvm_vcpu_events {
        let mut events = kvm_vcpu_events { flags: KVM_VCPUEVENT_VALID_NMI_PENDING, ..Default::default() };
        if let Some(Exception { vector, error_code }) = self.exception {
            events.exception.injected = 1;
            events.exception.nr = vector;
            events.exception.has_error_code = error_code.is_some().into();
            events.exception.error_code = error_code.unwrap_or(0);
        }
        events
    }
}

/// General registers, in the order of the document.
fn words(regs: &kvm_regs) -> [u64; 18] {
    let kvm_regs { rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags } = *regs;
    [rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags]
}

fn registers_from(content: &mut Content<'_>) -> Result<kvm_regs, StateError> {
    let mut next = || content.u64();
    Ok(kvm_regs {
        rax: next()?,
        rbx: next()?,
        rcx: next()?,
        rdx: next()?,
        rsi: next()?,
        rdi: next()?,
        rsp: next()?,
        rbp: next()?,
        r8: next()?,
        r9: next()?,
        r10: next()?,
        r11: next()?,
        r12: next()?,
        r13: next()?,
        r14: next()?,
        r15: next()?,
        rip: next()?,
        rflags: next()?,
    })
}

fn exception_from(code: u32, error_code: u32) -> Result<Option<Exception>, StateError> {
    let [flags, vector, rest @ ..] = code.to_le_bytes();
    let exception = match flags {
        0 if code == 0 && error_code == 0 => return Ok(None),
        1 if error_code == 0 => Exception { vector, error_code: None },
        3 => Exception { vector, error_code: Some(error_code) },
        _ => return Err(StateError::Impossible { what: "the exception", value: code.into() }),
    };
    if vector > VECTOR_MAX || rest != [0; 2] {
        return Err(StateError::Impossible { what: "the exception", value: code.into() });
    }
    Ok(Some(exception))
}

fn xsave_from(mut content: Content<'_>) -> Result<Box<[u32; XSAVE_SIZE / 4]>, StateError> {
    if content.remaining() > XSAVE_SIZE {
        return Err(StateError::Damaged("its xsave area is too long"));
    }
    let mut area = Box::new([0; XSAVE_SIZE / 4]);
    for word in area.iter_mut().take(content.remaining() / 4) {
        *word = content.u32()?;
    }
    content.finish()?;
    Ok(area)
}

fn components(area: &[u32; XSAVE_SIZE / 4]) -> u64 {
    u64::from(area[XSTATE_BV]) | u64::from(area[XSTATE_BV + 1]) << 32
}

fn halves(word: u64) -> [u32; 2] {
    let [a, b, c, d, high @ ..] = word.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes(high)]
}

#[cfg(test)]
mod tests;
