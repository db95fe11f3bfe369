//! Calls, replies and notifications over the real queues.

use crate::boot::suite;
use crate::support::{Host, count_of, is_slow, needs_kvm};

/// An echo in C, and one test of the suite that calls it.
fn with_echo(test: &str) -> String {
    format!(
        "[districts.echo]
         image = 'echo'
         publishes = ['echo']
         [districts.suite]
         image = 'suite'
         arguments = [{test}]
         restart = 'never'
         grants = {{ log = 'host/log', echo = 'echo/echo' }}"
    )
}

#[test]
fn c19_all_sizes_and_numbers_of_keys_through_an_echo_in_c() {
    needs_kvm!();
    let host = Host::with_daemon();
    host.start(&with_echo("'c19'"));
    host.over("suite");
    assert_eq!(host.last_words("suite"), "exited with code 0");
}

#[test]
fn c19_the_longest_message_fits_the_smallest_window() {
    needs_kvm!();
    let host = Host::with_daemon();
    host.start(&with_echo("'c19'").replace("image", "window = '256KiB'\nimage"));
    host.over("suite");
    assert_eq!(host.last_words("suite"), "exited with code 0");
}

#[test]
fn c19_thousands_of_calls_in_a_row() {
    needs_kvm!();
    for (server, publishes) in [("pong", "pong"), ("echo", "echo")] {
        let host = Host::with_daemon();
        host.start(&format!(
            "[districts.server]
             image = '{server}'
             publishes = ['{publishes}']
             [districts.ping]
             image = 'ping'
             arguments = ['2000', '3000', 'server']
             restart = 'never'
             grants = {{ log = 'host/log', server = 'server/{publishes}' }}"
        ));
        host.over("ping");
        assert_eq!(host.last_words("ping"), "exited with code 0");
        assert!(host.line("ping", "ping calls=2000 bytes=3000 ").contains("median_ns="));
    }
}

#[test]
fn c26_every_message_of_a_flood_arrives_once() {
    needs_kvm!();
    let host = Host::with_daemon();
    host.start(
        "[districts.sink]
         image = 'sink'
         publishes = ['sink']
         [districts.source]
         image = 'source'
         arguments = ['20000', '100']
         restart = 'never'
         grants = { log = 'host/log', sink = 'sink/sink' }",
    );
    host.over("source");
    assert_eq!(host.last_words("source"), "exited with code 0");
    host.line("source", "source messages=20000 bytes=100 ");
}

#[test]
fn c20_a_reply_key_works_once() {
    needs_kvm!();
    suite(&["c20"]);
}

#[test]
fn c22_a_dropped_reply_key_ends_the_call() {
    needs_kvm!();
    suite(&["c22"]);
}

#[test]
fn c24_a_cancelled_call_ends() {
    needs_kvm!();
    suite(&["c24"]);
}

#[test]
fn c25_a_deadline_ends_a_call_that_was_delivered() {
    needs_kvm!();
    suite(&["c25"]);
}

#[test]
fn c25_a_deadline_ends_what_is_queued_and_what_is_worked_on() {
    needs_kvm!();
    // The smallest window has room for 33 deliveries that nobody has looked at.
    let host = Host::with_daemon();
    host.start(
        "[districts.keeper]
         image = 'hoard'
         arguments = ['keep', '50']
         window = '256KiB'
         publishes = ['hoard']
         [districts.caller]
         image = 'hoard'
         arguments = ['call', '200', 'hoard', '500']
         restart = 'never'
         grants = { log = 'host/log', hoard = 'keeper/hoard' }",
    );
    host.over("caller");
    let outcomes = host.line("caller", "outcomes: ");
    let queued = count_of(&outcomes, "NotDelivered(Deadline)");
    let delivered = count_of(&outcomes, "Unknown(Deadline)");
    assert_eq!(queued + delivered, 200, "{outcomes}");
    assert!((50..=50 + 33).contains(&delivered), "{outcomes}");
}

#[test]
fn c28_a_district_calls_itself() {
    needs_kvm!();
    suite(&["c28"]);
}

#[test]
fn c29_no_notification_is_lost() {
    needs_kvm!();
    suite(&["c29"]);
}

/// Clients at once. On a host whose processor is software, forty districts starting together take minutes.
fn many() -> usize {
    if is_slow() { 8 } else { 40 }
}

#[test]
fn c46_many_clients_find_their_server_again() {
    needs_kvm!();
    let mut manifest = String::from(
        "[districts.counter]
         image = 'counter'
         publishes = ['counter']
         restart = { policy = 'always', backoff = '20ms' }\n",
    );
    for client in 0..many() {
        manifest.push_str(&format!(
            "[districts.client{client}]
             image = 'client'
             memory = '4MiB'
             window = '256KiB'
             arguments = ['counter', '0', '50']
             grants = {{ log = 'host/log', counter = 'counter/counter' }}\n"
        ));
    }
    let host = Host::with(&manifest);
    let clients: Vec<String> = (0..many()).map(|client| format!("client{client}")).collect();
    for client in &clients {
        host.line(client, "counter is at ");
    }
    let seen: Vec<usize> = clients.iter().map(|client| host.lines(client).len()).collect();
    host.kill("counter");
    for (client, seen) in clients.iter().zip(seen) {
        host.lines_after(client, seen, &["looking it up again", "counter is at "]);
        assert_eq!(host.info(client).epoch, 1);
    }
}
