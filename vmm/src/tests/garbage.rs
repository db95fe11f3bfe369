//! Programs that make no sense at all.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Guest, Host, program};
use crate::report::Ended;

/// Steele, Lea, Flood: Fast splittable pseudorandom number generators (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A page of random bytes, or of random instructions out of those that touch something.
    fn page(&mut self) -> Vec<u8> {
        const PIECES: [&[u8]; 16] = [
            &[0xcc],
            &[0xb8, 1, 0, 0, 0, 0xcc],
            &[0x0f, 0x05],
            &[0xcd, 0x03],
            &[0x9d],
            &[0x48, 0xcf],
            &[0x48, 0xcb],
            &[0x8b, 0x04, 0x25, 0x70, 0, 0, 0x10],
            &[0x89, 0x04, 0x25, 0x70, 0, 0, 0x10],
            &[0x89, 0x04, 0x25, 0x50, 0, 0, 0x10],
            &[0x8e, 0xd0],
            &[0x8e, 0xe0],
            &[0xf3, 0x48, 0x0f, 0xae, 0xd0],
            &[0x54],
            &[0x5c],
            &[0xf1],
        ];
        let plain = self.next().is_multiple_of(2);
        let mut page = Vec::new();
        while page.len() < 4096 - 16 {
            let word = self.next();
            if plain || word.is_multiple_of(4) {
                page.extend_from_slice(&word.to_le_bytes()[..1 + (word >> 8) as usize % 8]);
            } else {
                page.extend_from_slice(PIECES[(word >> 8) as usize % PIECES.len()]);
            }
        }
        page
    }
}

#[test]
fn c41_random_programs_end_in_a_report_or_are_stopped() {
    let Some(host) = Host::get() else { return };
    let seed = std::env::var("DISTRICT_SEED").ok().map_or_else(
        || u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap(),
        |seed| seed.parse().unwrap(),
    );
    println!("DISTRICT_SEED={seed}");
    let mut random = Random(seed);
    let (mut ends, mut faults) = ([0; 4], [0; 256]);
    for _ in 0..300 {
        let guest = Guest::new(&host.start(), &program(&random.page()).file());
        let Guest { mut machine, handle, .. } = guest;
        let (report, reports) = channel();
        let thread = std::thread::spawn(move || {
            // The receiver waits until the thread has ended.
            report.send(machine.run()).unwrap();
        });
        let ended = match reports.recv_timeout(Duration::from_millis(100)) {
            Err(RecvTimeoutError::Timeout) => {
                // Gone already: the report is on its way.
                let _ = handle.stop(&thread);
                reports.recv_timeout(Duration::from_secs(10)).unwrap()
            }
            other => other.unwrap(),
        };
        thread.join().unwrap();
        match ended {
            Ended::Exit { .. } => ends[0] += 1,
            Ended::Fault(fault) => {
                ends[1] += 1;
                faults[usize::from(fault.vector)] += 1;
            }
            Ended::Stopped => ends[2] += 1,
            Ended::Failed { error } => {
                println!("{error}");
                ends[3] += 1;
            }
        }
    }
    let [exits, faulted, stopped, failed] = ends;
    println!("{exits} exits, {faulted} faults, {stopped} stopped, {failed} failed");
    let vectors: Vec<_> =
        (0..256).filter(|&vector| faults[vector] > 0).map(|vector| (vector, faults[vector])).collect();
    println!("(vector, count): {vectors:?}");
    assert!(faulted > 100);
}
