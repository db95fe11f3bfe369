//! What districts can and cannot do with keys, tried from inside.

use crate::boot::suite;
use crate::support::{Host, needs_kvm};

#[test]
fn c06_handle_1_cannot_be_lost() {
    needs_kvm!();
    suite(&["c06"]);
}

#[test]
fn c08_no_name_leads_out_of_the_view() {
    needs_kvm!();
    suite(&["c08"]);
}

#[test]
fn c10_random_handles_are_no_keys_and_cost_their_sender_only() {
    needs_kvm!();
    // Each costs a hundred frames: with more than a second's worth, the district could not say how it went.
    let said = suite(&["c10", "5000"]);
    let words: Vec<&str> = said.split_whitespace().collect();
    let numbers: u64 = words.iter().filter_map(|word| word.parse::<u64>().ok()).sum();
    assert_eq!(numbers, 5_000, "{said}");
}

#[test]
fn c10_where_frames_are_limited_so_are_guesses() {
    needs_kvm!();
    let host = Host::with_daemon();
    host.start(
        "[districts.guesser]
         image = 'suite'
         arguments = ['c10', '5000']
         restart = 'never'
         limits = { frames-per-second = 500 }
         grants = { log = 'host/log', clock = 'host/clock' }",
    );
    host.over("guesser");
    let said = host.last_words("guesser");
    assert!(said == "exited with code 0" || said.contains("Quota(Frames)"), "{said}");
}

#[test]
fn c12_nobody_gets_more_rights() {
    needs_kvm!();
    suite(&["c12"]);
}

#[test]
fn c14_badges_are_set_once() {
    needs_kvm!();
    suite(&["c14"]);
}

#[test]
fn c16_a_key_without_transfer_stays() {
    needs_kvm!();
    suite(&["c16"]);
}

#[test]
fn c17_no_keys_through_a_key_without_send_keys() {
    needs_kvm!();
    suite(&["c17"]);
}

#[test]
fn c21_whoever_gets_the_reply_key_can_answer() {
    needs_kvm!();
    let host = Host::with_daemon();
    host.start(
        "[districts.pipe]
         image = 'pipe'
         publishes = ['pipe']
         [districts.suite]
         image = 'suite'
         arguments = ['c21']
         restart = 'never'
         grants = { pipe = 'pipe/pipe' }",
    );
    host.over("suite");
    assert_eq!(host.last_words("suite"), "exited with code 0");
}

#[test]
fn c27_no_object_has_an_unknown_operation() {
    needs_kvm!();
    suite(&["c27"]);
}

#[test]
fn c32_revoking_breaks_what_is_below() {
    needs_kvm!();
    suite(&["c32"]);
}

#[test]
fn c33_a_delivered_call_completes_though_its_key_is_revoked() {
    needs_kvm!();
    suite(&["c33"]);
}

#[test]
fn c35_the_exporter_is_told_of_the_last_key() {
    needs_kvm!();
    suite(&["c35"]);
}

#[test]
fn a_grant_has_no_more_rights_than_the_manifest_says() {
    needs_kvm!();
    let host = Host::with(
        "[districts.counter]
         image = 'counter'
         publishes = ['counter']
         [districts.client]
         image = 'client'
         arguments = ['counter', '0', '20']
         grants = { log = 'host/log', counter = { to = 'counter/counter', rights = ['call'] } }",
    );
    host.line("client", "counter is at 2");
    let entry = host.keys("client").into_iter().find(|key| key.kind == "entry").unwrap();
    assert_eq!((entry.rights.as_slice(), entry.target.as_str()), (&["call".to_owned()][..], "counter (export 0)"));
    assert_eq!(entry.from.map(|name| name.to_string()), Some("counter".to_owned()));
}
