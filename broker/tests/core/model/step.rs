//! What districts of the model do, at random.

use district_protocol::rights::Rights;
use proptest::prelude::*;

/// What one of the districts does next. The numbers choose among what it has.
#[derive(Debug, Clone)]
pub enum Step {
    Call { key: usize, timeout: u64, give: Option<(usize, bool, u32)> },
    Send { key: usize, give: Option<(usize, bool, u32)> },
    Reply { reply: usize, give: Option<(usize, bool, u32)> },
    Notify { key: usize, bits: u64 },
    Cancel { call: usize },
    Derive { key: usize, rights: u32, flags: u8, timeout: u64 },
    Drop { key: usize },
    Revoke { key: usize },
    Watch { key: usize },
    Export,
    Notifier,
    Bind { key: usize, copy: bool },
    Unbind,
    LookUp { peer: usize, wait: bool, timeout: u64 },
    Sleep { timeout: u64 },
    Checkpoint { timeout: u64 },
    CheckpointBegins,
    Checkpointed { fails: bool },
    Guess { handle: u64 },
    Deliver,
    Stall,
    Pass { time: u64 },
    Crash { unread: u64, reason: bool },
    Start,
}

fn gift() -> impl Strategy<Value = Option<(usize, bool, u32)>> {
    let rights = prop_oneof![3 => Just(Rights::ALL.0), 1 => any::<u32>()];
    prop::option::of((any::<usize>(), any::<bool>(), rights))
}

pub fn step() -> impl Strategy<Value = Step> {
    let key = any::<usize>;
    let timeout = || prop_oneof![Just(0), 1_u64..40];
    prop_oneof![
        10 => (key(), timeout(), gift()).prop_map(|(key, timeout, give)| Step::Call { key, timeout, give }),
        5 => (key(), gift()).prop_map(|(key, give)| Step::Send { key, give }),
        8 => (key(), gift()).prop_map(|(reply, give)| Step::Reply { reply, give }),
        2 => (key(), any::<u64>()).prop_map(|(key, bits)| Step::Notify { key, bits }),
        2 => key().prop_map(|call| Step::Cancel { call }),
        5 => (key(), any::<u32>(), 0_u8..4, timeout()).prop_map(|(key, rights, flags, timeout)| Step::Derive {
            key,
            rights,
            flags,
            timeout
        }),
        3 => key().prop_map(|key| Step::Drop { key }),
        2 => key().prop_map(|key| Step::Revoke { key }),
        2 => key().prop_map(|key| Step::Watch { key }),
        3 => Just(Step::Export),
        1 => Just(Step::Notifier),
        3 => (key(), any::<bool>()).prop_map(|(key, copy)| Step::Bind { key, copy }),
        1 => Just(Step::Unbind),
        4 => (key(), any::<bool>(), timeout()).prop_map(|(peer, wait, timeout)| Step::LookUp { peer, wait, timeout }),
        1 => timeout().prop_map(|timeout| Step::Sleep { timeout }),
        3 => timeout().prop_map(|timeout| Step::Checkpoint { timeout }),
        2 => Just(Step::CheckpointBegins),
        2 => any::<bool>().prop_map(|fails| Step::Checkpointed { fails }),
        1 => any::<u64>().prop_map(|handle| Step::Guess { handle }),
        14 => Just(Step::Deliver),
        1 => Just(Step::Stall),
        2 => (1_u64..20).prop_map(|time| Step::Pass { time }),
        1 => (0_u64..4, any::<bool>()).prop_map(|(unread, reason)| Step::Crash { unread, reason }),
        2 => Just(Step::Start),
    ]
}
