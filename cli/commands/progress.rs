//! How far something is that takes long, on standard error, while its answer is waited for.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::api::client::{Client, ClientError};
use crate::api::event::EventKind;
use crate::api::name::Name;
use crate::terminal::text::printable;

/// What is done sooner needs no report.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two lines where they cannot be rewritten.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Back to the beginning of the line, and erase it to its end (ECMA-48 section 8.3.41).
const ERASE: &str = "\r\x1b[K";

/// Makes a request that may take long, and shows what the daemon tells of the district meanwhile.
///
/// # Errors
/// Those of the request.
pub fn watched<T>(
    client: &Client,
    name: &Name,
    request: impl FnOnce(&Client) -> Result<T, ClientError>,
) -> Result<T, ClientError> {
    let meter = Arc::new(Mutex::new(Meter::new(is_rewritable())));
    let (socket, name, theirs) = (client.socket().to_owned(), name.clone(), Arc::clone(&meter));
    // It waits for events until the process ends. Without it nothing is shown, which is no reason not to ask.
    let _ = std::thread::Builder::new().name("progress".to_owned()).spawn(move || follow(&socket, name, &theirs));
    let answer = request(client);
    say(&lock(&meter).finish());
    answer
}

/// Shows the reports on a district, by a client of its own: the command's is busy.
fn follow(socket: &Path, name: Name, meter: &Mutex<Meter>) {
    let Ok(client) = Client::connect(socket) else { return };
    let Ok(events) = client.events(&[name], false) else { return };
    for event in events.map_while(Result::ok).filter(|event| event.kind == EventKind::Progress) {
        let mut meter = lock(meter);
        let now = meter.began.elapsed();
        say(&meter.report(now, &event.text));
    }
}

fn lock(meter: &Mutex<Meter>) -> MutexGuard<'_, Meter> {
    meter.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_rewritable() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|value| value != "dumb")
}

fn say(text: &str) {
    let mut stderr = io::stderr().lock();
    // Nothing can be done about a closed standard error.
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}

/// Which reports are shown, and how.
#[derive(Debug)]
struct Meter {
    began: Instant,
    rewritable: bool,
    /// When the last one was shown.
    shown: Option<Duration>,
    over: bool,
}

impl Meter {
    fn new(rewritable: bool) -> Meter {
        Meter { began: Instant::now(), rewritable, shown: None, over: false }
    }

    /// What to write for a report that came so long after the beginning.
    fn report(&mut self, now: Duration, text: &str) -> String {
        let soon = self.shown.is_some_and(|shown| !self.rewritable && now < shown + LINE_EVERY);
        if self.over || soon || now < PATIENCE {
            return String::new();
        }
        self.shown = Some(now);
        if self.rewritable { format!("{ERASE}{}", printable(text)) } else { format!("{}\n", printable(text)) }
    }

    /// What to write when there is an answer. Nothing is shown after that.
    fn finish(&mut self) -> String {
        self.over = true;
        if self.rewritable && self.shown.is_some() { ERASE.to_owned() } else { String::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f32) -> Duration {
        Duration::from_secs_f32(seconds)
    }

    #[test]
    fn a_terminal_shows_the_newest_on_one_line_and_is_left_clean() {
        let mut meter = Meter::new(true);
        assert_eq!(meter.report(at(0.5), "copy: 10 %"), "");
        assert_eq!(meter.report(at(1.0), "copy: 20 %"), "\r\x1b[Kcopy: 20 %");
        assert_eq!(meter.report(at(1.5), "copy: 30 %\n"), "\r\x1b[Kcopy: 30 %\\n");
        assert_eq!(meter.finish(), "\r\x1b[K");
        assert_eq!(meter.report(at(2.0), "copy: 40 %"), "");
    }

    #[test]
    fn elsewhere_there_is_a_line_now_and_then() {
        let mut meter = Meter::new(false);
        let shown: Vec<String> = (1..=13).map(|half| meter.report(at(half as f32 / 2.0), &half.to_string())).collect();
        assert_eq!(shown.concat(), "2\n12\n");
        assert_eq!(meter.finish(), "");
    }

    #[test]
    fn what_is_quick_says_nothing() {
        assert_eq!(Meter::new(true).finish(), "");
    }
}
