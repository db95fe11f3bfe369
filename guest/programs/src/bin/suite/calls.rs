//! What becomes of calls. Where two sides are needed the district calls itself.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use district_sdk::{Directory, Error, Event, Key, Message, Reason, export, next_event, notifier, time};

use crate::{Verdict, expect, works};

const WHILE: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(10);

fn message() -> Result<Message, String> {
    match next_event(Some(LONG)) {
        Some(Event::Message(message)) => Ok(message),
        other => Err(format!("{other:?} instead of a message")),
    }
}

/// All sizes of data, all numbers of keys.
pub(crate) fn c19_sizes(argument: &str) -> Verdict {
    let name = if argument.is_empty() { "echo" } else { argument };
    let echo = works("look-up of echo", Directory::bootstrap().lookup_wait(name, LONG))?;
    for size in [0, 1, 2, 64, 1000, 4096, 4097, 65_535, 65_536] {
        let data: Vec<u8> = (0u32..size).map(|index| (index ^ index >> 8).to_le_bytes()[0]).collect();
        let reply = works("call", echo.call(u64::from(size) + 5, &data).reply_capacity(65_536).wait())?;
        expect("result", reply.result, u64::from(size) + 5)?;
        expect("data", reply.data == data, true)?;
    }
    expect("65,537 bytes", echo.call(1, &vec![0; 65_537]).wait().err(), Some(Error::TooBig))?;
    let keys: Vec<Key> = (0..4).map(export).collect::<Result<_, _>>().map_err(|error| format!("export: {error:?}"))?;
    for count in 0..=4 {
        let call = keys[..count].iter().fold(echo.call(1, &[]), |call, key| call.key(key));
        let back = works("call with keys", call.wait())?.keys;
        expect("keys", back.len(), count)?;
        for (key, export) in back.iter().zip(0..) {
            works("send through a key that came back", key.send(9, &[]).wait())?;
            expect("object of that key", message()?.export, export)?;
        }
    }
    let five = keys.iter().fold(echo.call(1, &[]), |call, key| call.key(key)).key(&echo);
    expect("five keys", five.wait().err(), Some(Error::TooManyKeys))
}

/// A reply key works once.
pub(crate) fn c20_reply_twice(_: &str) -> Verdict {
    let own = works("export", export(1))?;
    let ticket = works("call", own.call(1, &[]).start())?;
    let message = message()?;
    let handle = message.reply_handle().ok_or("no reply key")?;
    works("reply", message.answer(5, b"once").and_then(|answer| answer.wait()))?;
    let again = Key::from_handle(handle).reply(6, b"twice").wait().err();
    expect("again", again, Some(Error::Broken(Reason::Used)))?;
    let reply = works("call", ticket.wait())?;
    expect("reply", (reply.result, reply.data.as_slice()), (5, b"once".as_slice()))?;
    expect("another event", next_event(Some(WHILE)).is_none(), true)
}

/// A reply key works wherever it has gone, here through a `pipe`.
pub(crate) fn c21_reply_by_another(_: &str) -> Verdict {
    const FORWARD: u64 = 3;
    let pipe = works("look-up of pipe", Directory::bootstrap().lookup_wait("pipe", LONG))?;
    let own = works("export", export(1))?;
    let ticket = works("call", pipe.call(FORWARD, b"question").key(&own).start())?;
    let mut message = message()?;
    expect("data", message.data.as_slice(), b"question".as_slice())?;
    let reply_key = message.keys.pop().ok_or("no key in the message")?;
    works("reply", reply_key.reply(8, b"answer").wait())?;
    let reply = works("call", ticket.wait())?;
    expect("reply", (reply.result, reply.data.as_slice()), (8, b"answer".as_slice()))
}

/// Dropping the reply key ends the call.
pub(crate) fn c22_no_reply(_: &str) -> Verdict {
    let own = works("export", export(1))?;
    let ticket = works("call", own.call(1, &[]).start())?;
    drop(message()?);
    expect("outcome", ticket.wait(), Err(Error::Unknown(Reason::NoReply)))
}

/// Cancelling a call that is queued, and one that was delivered.
pub(crate) fn c24_cancel(_: &str) -> Verdict {
    let own = works("export", export(1))?;
    let ticket = works("call", own.call(1, &[]).start())?;
    let message = message()?;
    let reply = message.reply_handle();
    works("cancel", ticket.cancel())?;
    expect("delivered", ticket.wait(), Err(Error::Unknown(Reason::Cancelled)))?;
    match next_event(Some(LONG)) {
        Some(Event::Cancelled { reply: handle }) => expect("handle", Some(handle), reply)?,
        other => return Err(format!("{other:?} instead of Cancelled")),
    }
    expect("late reply", message.answer(1, &[]).and_then(|answer| answer.wait()).is_err(), true)?;
    expect("another event", next_event(Some(WHILE)).is_none(), true)
}

/// A deadline ends a call that nobody answers.
pub(crate) fn c25_deadline(_: &str) -> Verdict {
    let own = works("export", export(1))?;
    let start = time::now();
    let ticket = works("call", own.call(1, &[]).timeout(WHILE).start())?;
    let message = message()?;
    expect("delivered", ticket.wait(), Err(Error::Unknown(Reason::Deadline)))?;
    let passed = time::now() - start;
    if !(200_000_000..5_000_000_000).contains(&passed) {
        return Err(format!("a deadline of 200 ms took {passed} ns"));
    }
    drop(message);
    Ok(())
}

/// A district can call itself, and calls of its calls.
pub(crate) fn c28_call_to_itself(_: &str) -> Verdict {
    let own = works("export", export(1))?;
    let mut tickets = Vec::new();
    let mut messages = Vec::new();
    for depth in 0..20 {
        tickets.push(works("call", own.call(depth, &depth.to_le_bytes()).start())?);
        messages.push(message()?);
    }
    while let (Some(ticket), Some(message)) = (tickets.pop(), messages.pop()) {
        works("reply", message.reply(message.operation + 1, &message.data))?;
        let reply = works("call", ticket.wait())?;
        expect("reply", reply.result, message.operation + 1)?;
    }
    let nobody_serves = own.call(1, &[]).timeout(WHILE).wait();
    expect("nobody serves", matches!(nobody_serves, Err(Error::Unknown(_) | Error::NotDelivered(_))), true)
}

/// No bit is lost, whoever is slow.
pub(crate) fn c29_notifications(argument: &str) -> Verdict {
    let count: u64 = argument.parse().unwrap_or(10_000);
    let own = works("notifier", notifier(3))?;
    let mut missing = u64::MAX;
    for number in 0..count {
        works("notify", own.notify(1 << (number % 64)).detach())?;
    }
    while missing != 0 {
        match next_event(Some(LONG)) {
            Some(Event::Notification { notifier: 3, bits }) if bits != 0 => missing &= !bits,
            other => return Err(format!("{other:?} instead of a notification; {missing:#x} is missing")),
        }
    }
    while let Some(event) = next_event(Some(WHILE)) {
        expect("another event", matches!(event, Event::Notification { notifier: 3, .. }), true)?;
    }
    Ok(())
}

/// A delivered call through a revoked key completes.
pub(crate) fn c33_revoked_in_the_queue(_: &str) -> Verdict {
    let own = works("export", export(1))?;
    let child = works("derive", own.derive().make())?;
    let ticket = works("call", child.call(1, &[]).start())?;
    let message = message()?;
    works("revoke", own.revoke())?;
    expect("the key", child.call(1, &[]).wait().err(), Some(Error::Broken(Reason::Revoked)))?;
    works("reply", message.reply(4, &[]))?;
    expect("the call", works("call", ticket.wait())?.result, 4)
}
