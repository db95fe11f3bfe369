//! Revocation, and exports that nobody has a key to.

use std::time::{Duration, Instant};

use district_broker::{DistrictId, Limits};
use district_protocol::frame::{DeliveryKind, RequestHeader, RequestKind};
use district_protocol::handle::Handle;
use district_protocol::rights::Rights;
use district_protocol::status::{Argument, Quota, Reason, Status};

use crate::world::*;

fn revoke(handle: Handle) -> RequestHeader {
    RequestHeader::new(RequestKind::Revoke, handle)
}

#[test]
fn c32_a_tree_of_three_levels_at_five_districts() {
    let ids: Vec<DistrictId> = (1..=5).map(|number| DistrictId([number; 16])).collect();
    let mut world = friends(&ids);
    let entry = world.export(ids[0], 1);
    let root = world.derive(ids[0], entry, ENTRY);
    let mut holders = Vec::new();
    for id in &ids[1..] {
        let key = world.give(ids[0], root, *id);
        let child = world.derive(*id, key, ENTRY);
        let grandchild = world.derive(*id, child, Rights::CALL.union(Rights::TRANSFER));
        holders.extend([(*id, key), (*id, child), (*id, grandchild)]);
    }
    // One of them passes the middle of its branch on.
    let far = world.pass_key(ids[1], slot(holders[1].1, false), ids[4]);
    holders[1] = (ids[4], far);
    world.ok(ids[0], revoke(root));
    for (id, key) in holders {
        assert_eq!(world.status(id, send(key, 1)), Status::Broken(Reason::Revoked));
    }
    world.ok(ids[0], send(root, 5));
    assert_eq!(world.take_message(ids[0]).header.operation, 5);
    world.ok(ids[0], revoke(root));
}

#[test]
fn c33_what_is_queued_ends_and_what_is_delivered_goes_on() {
    let mut world = friends(&[A, B]);
    let (entry, key) = world.connect(A, B, 1);
    let (delivered, delivery) = world.delivered_call(A, key, B);
    let gift = world.export(A, 2);
    let queued = world.submit(A, with_keys(call(key, 2), [slot(gift, false)]), b"");
    world.ok(A, send(key, 3));
    world.ok(B, revoke(entry));
    assert_eq!(world.done(queued).status(), Status::NotDelivered(Reason::Revoked));
    world.ok(A, send(gift, 1));
    assert!(world.take(B).is_none());
    world.ok(B, reply(delivery.header.reply, 4));
    assert_eq!(world.done(delivered).header.result, 4);
}

#[test]
fn c33_a_key_that_is_revoked_on_its_way_arrives_broken() {
    let mut world = friends(&[A, B]);
    let (_, key) = world.connect(A, B, 1);
    let entry = world.export(A, 2);
    let moved = world.derive(A, entry, ENTRY);
    world.ok(A, with_keys(send(key, 1), [slot(moved, false), slot(entry, true)]));
    world.ok(A, revoke(entry));
    let header = world.take_message(B).header;
    assert_eq!(header.key_count, 2);
    for handle in &header.keys[..2] {
        assert_eq!(world.status(B, send(*handle, 1)), Status::Broken(Reason::Revoked));
        world.ok(B, RequestHeader::new(RequestKind::Drop, *handle));
    }
}

#[test]
fn c34_chains_are_limited() {
    let mut world = friends(&[A, B]);
    let mut chain = vec![world.export(A, 1)];
    for _ in 0..16 {
        chain.push(world.derive(A, chain[chain.len() - 1], ENTRY));
    }
    let last = chain[16];
    assert_eq!(world.status(A, request(RequestKind::Derive, last, 0)), Status::TooDeep);
    let (_, key) = world.connect(A, B, 1);
    let copied = with_keys(send(key, 1), [slot(last, true)]);
    assert_eq!(world.status(A, copied), Status::TooDeep);
    // Dropping what is between does not make it less deep.
    for handle in &chain[1..16] {
        world.ok(A, RequestHeader::new(RequestKind::Drop, *handle));
    }
    assert_eq!(world.status(A, request(RequestKind::Derive, last, 0)), Status::TooDeep);
    world.ok(A, revoke(chain[0]));
    assert_eq!(world.status(A, send(last, 1)), Status::Broken(Reason::Revoked));
}

#[test]
fn c34_a_wide_tree_ends_at_the_quota_and_is_revoked_in_bounded_time() {
    let mut world = World::new();
    let limits = Limits { handles: 100_000, ..Limits::default() };
    world.start(district_broker::Attach { limits, ..plain(A) });
    let bytes = |handle| request(RequestKind::Derive, handle, u64::from(ENTRY.0)).encode().to_vec();
    let entry = world.export(A, 1);
    let mut refused = 0;
    for _ in 0..100_010 {
        let raw = district_broker::RawRequest { chain: 0, capacity: 0, bytes: bytes(entry) };
        world.core.request(world.now, A, raw);
        for effect in world.core.drain_effects() {
            if let district_broker::Effect::Complete { header, .. } = effect
                && header.status == Status::Quota(Quota::Handles)
            {
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 11);
    let raw = district_broker::RawRequest { chain: 0, capacity: 0, bytes: revoke(entry).encode().to_vec() };
    let start = Instant::now();
    world.core.request(world.now, A, raw);
    // It takes a few milliseconds; the bound is for a machine that has much else to do.
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(world.core.drain_effects().count(), 1);
    world.ok(A, send(entry, 1));
    assert_eq!(world.view(A).keys.len(), 100_001);
}

#[test]
fn c35_the_exporter_is_told_once_when_the_last_key_goes() {
    let mut world = friends(&[A, B]);
    let (entry, key) = world.connect(A, B, 31);
    let child = world.derive(A, key, ENTRY);
    let drop = |handle| RequestHeader::new(RequestKind::Drop, handle);
    world.ok(B, drop(entry));
    world.ok(A, drop(key));
    assert!(world.take(B).is_none());
    let before = world.view(B).usage.exports;
    world.ok(A, drop(child));
    assert_eq!(world.view(B).usage.exports, before, "counts until it is told");
    assert_eq!(world.take_kind(B, DeliveryKind::Unreferenced).header.export, 31);
    assert_eq!(world.view(B).usage.exports, before - 1);
    assert!(world.take(B).is_none());
    // The last holder restarts, or its last key is revoked.
    let (entry, _) = world.connect(A, B, 32);
    world.ok(B, drop(entry));
    world.crash(A, 0);
    assert_eq!(world.take_kind(B, DeliveryKind::Unreferenced).header.export, 32);
    assert!(world.take(B).is_none());
}

#[test]
fn c36_revoking_needs_the_right_and_reaches_no_sibling() {
    let mut world = friends(&[A, B, C]);
    let entry = world.export(C, 1);
    let key_a = world.give(C, entry, A);
    let key_b = world.give(C, entry, B);
    world.ok(A, revoke(key_a));
    world.ok(B, send(key_b, 1));
    world.ok(A, send(key_a, 1));
    let tame = world.derive(A, key_a, ENTRY.without(Rights::REVOKE));
    assert_eq!(world.status(A, revoke(tame)), Status::Denied(Argument::TARGET));
    world.ok(A, send(tame, 1));
}
