//! Which processor a district sees: a written list of features, so that nothing new appears in a guest because a host
//! was upgraded, and so that a checkpoint can move between hosts that have what the list names.
//!
//! Kept is what code in ring 3 can use and what the vmm process sets up for it; not kept is what needs state beyond
//! x87, SSE and AVX (AVX-512, AMX, protection keys, MPX, shadow stacks), what nobody virtualises soundly (transactional
//! memory), what belongs to ring 0, to interrupts or to other timers than the time-stamp counter, and all paravirtual
//! leaves. On hosts that run ring 3 without trapping `cpuid` the list does not bind the guest.
//!
//! Leaves and bits: Intel SDM volume 2, `CPUID`; AMD64 manual volume 3, appendix E.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use serde::{Deserialize, Serialize};

use crate::state::StateError;
use crate::state::sections::{Reader, Section, Writer};

/// What becomes of a register of a leaf.
enum Keep {
    /// All of it.
    All,
    /// Nothing.
    Nothing,
    /// These bits.
    Mask(u32),
    /// These bits, each a feature with a name.
    Named(&'static [(u8, &'static str)]),
    /// It, but no more than this.
    AtMost(u32),
    /// This, whatever the host says.
    Value(u32),
}
use Keep::{All, AtMost, Mask, Named, Nothing, Value};

/// Function, index, then what is kept of eax, ebx, ecx, edx.
type Leaf = (u32, u32, [Keep; 4]);

/// Bytes of an XSAVE area for x87, SSE and AVX: legacy area, header, upper halves of 16 registers.
const XSAVE_BYTES: u32 = 512 + 64 + 256;
/// XCR0 of every district: x87, SSE, AVX.
pub(crate) const XCR0: u64 = 0b111;

const BASIC: u32 = 0x8000_0000;
const LEAVES: &[Leaf] = &[
    // Largest leaf; vendor.
    (0, 0, [AtMost(0xd), All, All, All]),
    // Family and model; size of a line for CLFLUSH.
    (1, 0, [All, Mask(0x0000_ff00), Named(FEATURES_1_ECX), Named(FEATURES_1_EDX)]),
    // Caches, without how many processors share them.
    (4, 0, CACHE),
    (4, 1, CACHE),
    (4, 2, CACHE),
    (4, 3, CACHE),
    (7, 0, [Value(0), Named(FEATURES_7_EBX), Named(FEATURES_7_ECX), Named(FEATURES_7_EDX)]),
    // XSAVE: components, sizes; then the variants of the instruction; then AVX's place in the area.
    (0xd, 0, [Value(7), Value(XSAVE_BYTES), Value(XSAVE_BYTES), Nothing]),
    (0xd, 1, [Named(&[(0, "XSAVEOPT"), (1, "XSAVEC"), (2, "XGETBV1")]), Nothing, Nothing, Nothing]),
    (0xd, 2, [All, All, Nothing, Nothing]),
    (BASIC, 0, [AtMost(BASIC + 8), All, All, All]),
    (BASIC + 1, 0, [All, Nothing, Named(EXTENDED_ECX), Named(EXTENDED_EDX)]),
    // Caches and TLBs, AMD's way.
    (BASIC + 5, 0, [All, All, All, All]),
    (BASIC + 6, 0, [All, All, All, All]),
    (BASIC + 7, 0, [Nothing, Nothing, Nothing, Named(&[(8, "INVARIANT_TSC")])]),
    // Widths of physical and virtual addresses.
    (BASIC + 8, 0, [Mask(0xffff), Nothing, Nothing, Nothing]),
];
const CACHE: [Keep; 4] = [Mask(0x3fff), All, All, Mask(0x7)];
const FEATURES_1_ECX: &[(u8, &str)] = &[
    (0, "SSE3"),
    (1, "PCLMULQDQ"),
    (9, "SSSE3"),
    (12, "FMA"),
    (13, "CMPXCHG16B"),
    (19, "SSE4_1"),
    (20, "SSE4_2"),
    (22, "MOVBE"),
    (23, "POPCNT"),
    (25, "AES"),
    (26, "XSAVE"),
    (28, "AVX"),
    (29, "F16C"),
    (30, "RDRAND"),
    (31, "HYPERVISOR"),
];
const FEATURES_1_EDX: &[(u8, &str)] = &[
    (0, "FPU"),
    (4, "TSC"),
    (5, "MSR"),
    (6, "PAE"),
    (8, "CMPXCHG8B"),
    (15, "CMOV"),
    (19, "CLFLUSH"),
    (23, "MMX"),
    (24, "FXSR"),
    (25, "SSE"),
    (26, "SSE2"),
];
const FEATURES_7_EBX: &[(u8, &str)] = &[
    (0, "FSGSBASE"),
    (3, "BMI1"),
    (5, "AVX2"),
    (6, "FDP_EXCPTN_ONLY"),
    (7, "SMEP"),
    (8, "BMI2"),
    (9, "ERMS"),
    (13, "ZERO_FCS_FDS"),
    (18, "RDSEED"),
    (19, "ADX"),
    (20, "SMAP"),
    (23, "CLFLUSHOPT"),
    (24, "CLWB"),
    (29, "SHA"),
];
const FEATURES_7_ECX: &[(u8, &str)] = &[(2, "UMIP"), (8, "GFNI"), (9, "VAES"), (10, "VPCLMULQDQ")];
const FEATURES_7_EDX: &[(u8, &str)] = &[(4, "FSRM")];
const EXTENDED_ECX: &[(u8, &str)] = &[(0, "LAHF64"), (5, "LZCNT"), (6, "SSE4A"), (7, "MISALIGNSSE"), (8, "PREFETCHW")];
const EXTENDED_EDX: &[(u8, &str)] = &[
    (0, "FPU"),
    (4, "TSC"),
    (5, "MSR"),
    (6, "PAE"),
    (8, "CMPXCHG8B"),
    (15, "CMOV"),
    (20, "NX"),
    (22, "MMXEXT"),
    (23, "MMX"),
    (24, "FXSR"),
    (29, "LONG_MODE"),
];

impl Keep {
    fn apply(&self, register: u32) -> u32 {
        match self {
            All => register,
            Nothing => 0,
            Mask(mask) => register & mask,
            Named(bits) => bits.iter().fold(0, |kept, (bit, _)| kept | register & 1 << bit),
            AtMost(most) => register.min(*most),
            Value(value) => *value,
        }
    }
}

/// The processor of a district, as [`crate::features::supported_cpuid`] found it on this host: plain data that the
/// daemon passes to its vmm processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpuid {
    /// Function, index, eax, ebx, ecx, edx.
    leaves: Vec<[u32; 6]>,
}

/// The leaves in a checkpoint's state.
const SECTION: Section = Section { kind: 2, version: 1 };
/// Most leaves of a [`Cpuid`] that another process or a file may hand over.
const LEAVES_MAX: usize = 64;

impl Cpuid {
    /// What of the host's `supported` leaves a district sees.
    pub(crate) fn mask(supported: &CpuId) -> Self {
        let leaves = LEAVES.iter().filter_map(|(function, index, keep)| {
            let entry = supported.as_slice().iter().find(|it| (it.function, it.index) == (*function, *index))?;
            let registers = [entry.eax, entry.ebx, entry.ecx, entry.edx];
            let mut leaf = [*function, *index, 0, 0, 0, 0];
            for (to, (keep, from)) in leaf[2..].iter_mut().zip(keep.iter().zip(registers)) {
                *to = keep.apply(from);
            }
            Some(leaf)
        });
        Self { leaves: leaves.collect() }
    }

    /// The leaves as KVM takes them; none if they are too many.
    pub(crate) fn to_kvm(&self) -> Option<CpuId> {
        if self.leaves.len() > LEAVES_MAX {
            return None;
        }
        let entry = |&[function, index, eax, ebx, ecx, edx]: &[u32; 6]| {
            let flags = if matches!(function, 4 | 7 | 0xd) { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 };
            kvm_cpuid_entry2 { function, index, flags, eax, ebx, ecx, edx, ..Default::default() }
        };
        CpuId::from_entries(&self.leaves.iter().map(entry).collect::<Vec<_>>()).ok()
    }

    #[cfg(test)]
    pub(crate) fn without_cmpxchg16b(&self) -> Self {
        let mut less = self.clone();
        for leaf in less.leaves.iter_mut().filter(|leaf| leaf[..2] == [1, 0]) {
            leaf[4] &= !(1 << 13);
        }
        less
    }

    #[cfg(test)]
    pub(crate) fn from_leaves(leaves: Vec<[u32; 6]>) -> Self {
        Self { leaves }
    }

    pub(crate) fn encode(&self, writer: &mut Writer) {
        let words = self.leaves.iter().flatten().flat_map(|word| word.to_le_bytes());
        writer.section(SECTION, &words.collect::<Vec<_>>());
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, StateError> {
        let mut content = reader.section(SECTION)?;
        let count = content.remaining() / size_of::<[u32; 6]>();
        if count > LEAVES_MAX {
            return Err(StateError::Damaged("its processor has too many leaves"));
        }
        let mut leaves = vec![[0; 6]; count];
        for word in leaves.iter_mut().flatten() {
            *word = content.u32()?;
        }
        content.finish()?;
        Ok(Self { leaves })
    }

    /// Names of the features that this processor has and `other` lacks.
    pub(crate) fn beyond(&self, other: &Cpuid) -> Vec<&'static str> {
        let mut missing = Vec::new();
        for (function, index, keep) in LEAVES {
            let (ours, theirs) = (self.leaf(*function, *index), other.leaf(*function, *index));
            let lacking = ours.iter().zip(theirs).map(|(ours, theirs)| ours & !theirs);
            for (keep, lacking) in keep.iter().zip(lacking) {
                if let Named(bits) = keep {
                    missing.extend(bits.iter().filter(|(bit, _)| lacking >> bit & 1 != 0).map(|(_, name)| *name));
                }
            }
        }
        missing.dedup();
        missing
    }

    /// The four registers of a leaf; zeros if there is none.
    fn leaf(&self, function: u32, index: u32) -> [u32; 4] {
        let found = self.leaves.iter().find(|leaf| leaf[..2] == [function, index]);
        found.map_or([0; 4], |leaf| [leaf[2], leaf[3], leaf[4], leaf[5]])
    }

    /// First address that the district's processor cannot name.
    pub fn physical_end(&self) -> u64 {
        let bits = self.registers(BASIC + 8).map_or(36, |[eax, ..]| eax & 0xff);
        1 << bits.clamp(36, 52)
    }

    /// Whether leaf 7 has this bit in ebx.
    pub(crate) fn leaf_7_ebx(&self, bit: u8) -> bool {
        self.registers(7).is_some_and(|[_, ebx, ..]| ebx >> bit & 1 != 0)
    }

    /// Whether leaf 7 has this bit in ecx.
    pub(crate) fn leaf_7_ecx(&self, bit: u8) -> bool {
        self.registers(7).is_some_and(|[_, _, ecx, _]| ecx >> bit & 1 != 0)
    }

    fn registers(&self, function: u32) -> Option<[u32; 4]> {
        let leaf = self.leaves.iter().find(|leaf| leaf[..2] == [function, 0])?;
        Some([leaf[2], leaf[3], leaf[4], leaf[5]])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host that has everything.
    fn all() -> CpuId {
        let leaf = |function, index| kvm_cpuid_entry2 {
            function,
            index,
            eax: u32::MAX,
            ebx: u32::MAX,
            ecx: u32::MAX,
            edx: u32::MAX,
            ..Default::default()
        };
        let basic = (0..=0x20).flat_map(|function| (0..4).map(move |index| (function, index)));
        let extended = (0..=0x1f).map(|function| (BASIC + function, 0));
        let hypervisor = [(0x4000_0000, 0), (0x4000_0001, 0)];
        let leaves: Vec<_> = basic.chain(extended).chain(hypervisor).map(|(f, i)| leaf(f, i)).collect();
        CpuId::from_entries(&leaves).unwrap()
    }

    #[test]
    fn what_another_processor_lacks_is_named() {
        let all = Cpuid::mask(&all());
        assert!(all.beyond(&all).is_empty());
        let mut other = all.clone();
        for leaf in &mut other.leaves {
            match leaf[..2] {
                [1, 0] => leaf[4] &= !(1 << 28),
                [7, 0] => leaf[3] &= !(1 << 5 | 1 << 29),
                _ => {}
            }
        }
        assert_eq!(all.beyond(&other), ["AVX", "AVX2", "SHA"]);
        assert!(other.beyond(&all).is_empty());
        other.leaves.clear();
        assert!(all.beyond(&other).len() > 40);
    }

    #[test]
    fn what_is_not_listed_is_not_seen() {
        let cpuid = Cpuid::mask(&all());
        assert_eq!(cpuid.registers(0).unwrap()[0], 0xd, "no later leaf");
        for function in [2, 0xa, 0xb, 0x14, 0x15, 0x1d, 0x1f, 0x4000_0000, 0x4000_0001, BASIC + 0xa, BASIC + 0x1f] {
            assert!(cpuid.registers(function).is_none(), "{function:#x}");
        }
        let [_, ebx, ecx, edx] = cpuid.registers(7).unwrap();
        for (name, register, bit) in [
            ("HLE", ebx, 4),
            ("RTM", ebx, 11),
            ("MPX", ebx, 14),
            ("AVX512F", ebx, 16),
            ("INVPCID", ebx, 10),
            ("PKU", ecx, 3),
            ("CET_SS", ecx, 7),
            ("LA57", ecx, 16),
            ("AMX_TILE", edx, 24),
            ("CET_IBT", edx, 20),
        ] {
            assert_eq!(register >> bit & 1, 0, "{name}");
        }
        let [_, _, ecx, _] = cpuid.registers(1).unwrap();
        for (name, bit) in [("MONITOR", 3), ("VMX", 5), ("X2APIC", 21), ("TSC_DEADLINE", 24)] {
            assert_eq!(ecx >> bit & 1, 0, "{name}");
        }
        assert_eq!(cpuid.registers(BASIC + 1).unwrap()[2] >> 2 & 1, 0, "SVM");
        assert_eq!(cpuid.registers(0xd).unwrap(), [7, 832, 832, 0]);
        assert_eq!(cpuid.physical_end(), 1 << 52);
        assert!(cpuid.to_kvm().unwrap().as_slice().len() <= LEAVES_MAX);
    }
}
