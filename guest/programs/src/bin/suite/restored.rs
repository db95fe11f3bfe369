//! What a district finds when it is restored, again and again: these end only when something is wrong.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;
use core::mem::ManuallyDrop;
use core::time::Duration;

use district_sdk::{
    Clock, Directory, Error, Event, Handle, Key, Reason, boot, checkpoint, log, next_event, restart, time,
};

use crate::{Verdict, expect, works};

/// Keys that are held when the checkpoint is taken.
const KEYS: usize = 1000;
/// How far the district's clock may be from the host's.
const CLOCK_ERROR: u64 = 50_000_000;
/// How long a name may take to become ready.
const PATIENCE: Duration = Duration::from_secs(600);
/// Longer than any life.
const LONG: Duration = Duration::from_secs(3600);

/// Holds many keys; in each further life tries all handles that it ever had, and says how they answer, or says nothing
/// and asks for no key if the argument is `quiet`.
pub(crate) fn c02_many_keys(argument: &str) -> Verdict {
    let clock = works("look-up of clock", Directory::bootstrap().lookup("clock"))?;
    let mut keys = Vec::new();
    for _ in 1..KEYS {
        keys.push(works("derive", clock.derive().make())?);
    }
    keys.push(clock);
    // The library knows which of its keys are of another life; here the broker is asked about the bare numbers.
    let handles: Vec<Handle> = keys.iter().map(Key::handle).collect();
    core::mem::forget(keys);
    log!("holding {} keys", handles.len());
    let mut lives = restart::count();
    loop {
        next_event(None);
        if restart::count() == lives || argument == "quiet" {
            continue;
        }
        lives = restart::count();
        let identify = |handle| ManuallyDrop::new(Key::from_handle(handle)).identify().err();
        let mut answers: BTreeMap<String, u32> = BTreeMap::new();
        for handle in &handles {
            *answers.entry(format!("{:?}", identify(*handle))).or_default() += 1;
        }
        expect("handle 1", identify(Handle::BOOTSTRAP), None)?;
        let unknown = Handle(handles[0].0 ^ 1 << 63);
        let unknown = identify(unknown).map(|error| format!("{error:?}"));
        log!("in epoch {}: {answers:?}, never issued: {unknown:?}", boot::epoch());
    }
}

/// Sleeps, by a call, for an hour, once in each life: a restore must end the call.
pub(crate) fn c03_sleep_through_all_restores(_: &str) -> Verdict {
    loop {
        let clock = works("look-up of clock", Directory::bootstrap().lookup("clock").map(Clock))?;
        let (epoch, woken) = (boot::epoch(), clock.sleep(LONG));
        let now = time::now();
        expect("outcome", woken, Err(Error::Unknown(Reason::SelfRestart)))?;
        expect("it is another life", boot::epoch() > epoch, true)?;
        log!("woken in epoch {} at {now}", boot::epoch());
    }
}

/// Logs what must be different in each life, what the boot page says of it, and whether the clock is right at once.
pub(crate) fn c05_what_each_life_finds(_: &str) -> Verdict {
    loop {
        let at_once = time::now();
        let life = restart::current();
        let lives = restart::count();
        let mut entropy = String::new();
        for byte in boot::entropy() {
            works("format", write!(entropy, "{byte:02x}"))?;
        }
        let found = describe(&entropy, at_once);
        match found {
            // Restored in the middle of it: what was found is of no life.
            _ if restart::count() != lives => continue,
            Err(Error::Unknown(_) | Error::Broken(_)) => continue,
            Err(error) => return Err(format!("{error:?} in epoch {}", life.epoch)),
            Ok(line) => log!("{line}"),
        }
        expect("checkpoint is in the past", life.checkpoint_time < at_once, true)?;
        while restart::count() == lives {
            next_event(None);
        }
    }
}

fn describe(entropy: &str, at_once: u64) -> Result<String, Error> {
    let life = restart::current();
    let clock = Clock(Directory::bootstrap().lookup("clock")?);
    let before = time::now();
    let there = clock.now()?;
    let after = time::now();
    let right = there + CLOCK_ERROR >= before && there <= after + CLOCK_ERROR;
    let key = district_sdk::export(1)?;
    Ok(format!(
        "life epoch={} reason={:?} generation={} taken={} now={at_once} clock={} handle={:#x} entropy={entropy}",
        life.epoch,
        life.reason,
        life.generation,
        life.checkpoint_time,
        if right { "right" } else { "wrong" },
        key.handle().0
    ))
}

/// Watches a key to the name in the argument, and logs each end that it is told of, once for each cookie; then finds
/// the name again, calls it, and watches that.
pub(crate) fn c38_watch(name: &str) -> Verdict {
    for cookie in 1.. {
        let key = find(name)?;
        match key.watch(cookie) {
            Ok(()) => {}
            Err(error) if error.look_up_again() => continue,
            Err(error) => return Err(format!("watch: {error:?}")),
        }
        log!("watching {cookie}");
        loop {
            match next_event(None) {
                Some(Event::Down { cookie: down, reason }) => {
                    log!("down {down} ({reason:?})");
                    expect("cookie", down, cookie)?;
                    break;
                }
                Some(Event::Lost(reason)) => {
                    log!("lost ({reason:?})");
                    break;
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Takes two checkpoints of itself, and fails: in the life that took them, and in all that begin from them.
pub(crate) fn fail_after_checkpoints(_: &str) -> Verdict {
    for _ in 0..2 {
        match works("checkpoint", checkpoint::commit())? {
            checkpoint::Commit::Committed { generation } => log!("committed {generation}"),
            checkpoint::Commit::Restored(restart) => return Err(format!("restored: {restart}")),
        }
    }
    Err(String::from("as intended"))
}

fn find(name: &str) -> Result<Key, String> {
    loop {
        match Directory::bootstrap().lookup_wait(name, PATIENCE) {
            Ok(key) => return Ok(key),
            Err(error) if error.look_up_again() => {}
            Err(error) => return Err(format!("look-up of {name}: {error:?}")),
        }
    }
}
