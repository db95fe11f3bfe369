//! The end of a connection, and the next one.

use std::boxed::Box;
use std::time::Duration;

use district_protocol::layout::WINDOW_SIZE_MIN;
use district_protocol::status::Reason;

use super::{echo, echoing};
use crate::channel::place;
use crate::machine::{host, install};
use crate::{Error, Event, Key, export, next_event};

#[test]
fn c02_a_broken_connection_breaks_every_key_but_the_first() {
    for (restored, reason) in [(true, Reason::SelfRestart), (false, Reason::Unreachable)] {
        echoing(WINDOW_SIZE_MIN);
        place::with(|channel| channel.replace(None));
        let key = export(1).unwrap();
        assert!(key.call(1, &[]).wait().is_ok());
        host(|host| host.disconnect(restored));
        assert_eq!(key.call(1, &[]).wait(), Err(Error::Broken(reason)));
        assert_eq!(Key::bootstrap().call(1, &[]).key(&key).wait(), Err(Error::Broken(reason)));
        assert!(Key::bootstrap().call(1, &[]).wait().is_ok());
        assert!(matches!(next_event(None), Some(Event::Lost(lost)) if lost == reason));
        assert!(next_event(Some(Duration::from_millis(1))).is_none());
        assert_eq!(host(|host| host.starts), 2);
        drop(key);
        assert!(export(1).unwrap().call(2, &[]).wait().is_ok());
    }
}

#[test]
fn c03_calls_under_way_end_when_the_connection_does() {
    for (restored, reason) in [(true, Reason::SelfRestart), (false, Reason::Unreachable)] {
        install(WINDOW_SIZE_MIN, |wires, request| {
            if request.header.operation == 2 {
                echo(wires, &request);
            }
        });
        place::with(|channel| channel.replace(None));
        let mut other = Key::bootstrap().call(1, &[]).start().unwrap();
        host(|host| host.at_park.push_back(Box::new(move |host| host.disconnect(restored))));
        assert_eq!(Key::bootstrap().call(1, &[]).wait(), Err(Error::Unknown(reason)));
        assert!(matches!(next_event(None), Some(Event::Lost(_))));
        assert!(matches!(next_event(None), Some(Event::Finished(id)) if id == other.id()));
        assert_eq!(other.poll(), Some(Err(Error::Unknown(reason))));
        assert_eq!(other.poll(), None);
        assert_eq!(other.wait(), Err(Error::Broken(Reason::Used)));
        assert_eq!(Key::bootstrap().call(2, &[]).wait().unwrap().result, 3);
    }
}

#[test]
fn c03_ten_restores_in_a_row() {
    install(WINDOW_SIZE_MIN, |_, _| {});
    for _ in 0..10 {
        host(|host| host.at_park.push_back(Box::new(|host| host.disconnect(true))));
        assert_eq!(Key::bootstrap().call(1, &[]).wait(), Err(Error::Unknown(Reason::SelfRestart)));
    }
}
