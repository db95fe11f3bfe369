//! The logs of districts: a bounded file each, and the last lines of it.
//!
//! A line of `logs/NAME.log` is `MILLISECONDS EPOCH TEXT`. What a guest writes is hostile: it is cut into lines, control
//! characters are escaped so that no terminal obeys them, more lines than [`LINES_PER_SECOND`] are counted instead of
//! written, and a file that has grown to [`FILE_MAX`] becomes `NAME.log.1`, in place of an older one.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::api::event::{Event, EventKind, now_ms};
use crate::api::info::State;
use crate::api::name::Name;

/// Bytes after which a log file is put aside. A district has two at most.
const FILE_MAX: u64 = 4 << 20;
/// Lines that a district may write in one second.
const LINES_PER_SECOND: u32 = 5_000;
/// Most lines that one request for logs gets.
const TAIL_MAX: usize = 100_000;

/// The log of one district.
pub struct Log {
    name: Name,
    path: PathBuf,
    file: File,
    size: u64,
    second: u64,
    lines_in_second: u32,
    left_out: u64,
}

impl Log {
    /// Opens the log of `name` in the state directory, at its end.
    pub fn open(directory: &Path, name: &Name) -> io::Result<Log> {
        let path = path_of(directory, name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let mut file = open_for_appending(&path)?;
        let size = file.metadata()?.len();
        if size > 0 {
            // Ends a line that a crash may have cut; an empty line is left out when the log is read.
            file.write_all(b"\n")?;
        }
        Ok(Log { name: name.clone(), path, file, size, second: 0, lines_in_second: 0, left_out: 0 })
    }

    /// Writes what a guest sent, and returns it as events, one a line. A full disk loses the line in the file only.
    pub fn write(&mut self, epoch: u64, text: &[u8]) -> Vec<Event> {
        let time_ms = now_ms();
        if time_ms / 1000 != self.second {
            self.second = time_ms / 1000;
            self.lines_in_second = 0;
        }
        let mut events = Vec::new();
        for line in String::from_utf8_lossy(text).trim_end_matches('\n').split('\n') {
            if self.lines_in_second >= LINES_PER_SECOND {
                self.left_out += 1;
                continue;
            }
            if self.left_out > 0 {
                let note = format!("({} lines were left out: more than {LINES_PER_SECOND} in a second)", self.left_out);
                self.left_out = 0;
                events.push(self.append(time_ms, epoch, note));
            }
            self.lines_in_second += 1;
            events.push(self.append(time_ms, epoch, escape(line)));
        }
        events
    }

    fn append(&mut self, time_ms: u64, epoch: u64, text: String) -> Event {
        let line = format!("{time_ms} {epoch} {text}\n");
        if self.size + line.len() as u64 > FILE_MAX {
            // If this fails the file grows on; nothing better can be done with the line.
            if std::fs::rename(&self.path, self.path.with_extension("log.1")).is_ok()
                && let Ok(file) = open_for_appending(&self.path)
            {
                self.file = file;
                self.size = 0;
            }
        }
        if self.file.write_all(line.as_bytes()).is_ok() {
            self.size += line.len() as u64;
        }
        event(&self.name, time_ms, epoch, text)
    }
}

/// The last `lines` lines of a district's log, oldest first. A district without a log has none.
pub fn tail(directory: &Path, name: &Name, lines: usize) -> io::Result<Vec<Event>> {
    let wanted = lines.min(TAIL_MAX);
    let path = path_of(directory, name);
    let mut found = VecDeque::new();
    for path in [path.with_extension("log.1"), path] {
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(FILE_MAX)))?;
        let mut bytes = Vec::new();
        file.take(FILE_MAX).read_to_end(&mut bytes)?;
        for line in String::from_utf8_lossy(&bytes).lines() {
            if let Some(event) = parse(name, line) {
                if found.len() == wanted {
                    found.pop_front();
                }
                if wanted > 0 {
                    found.push_back(event);
                }
            }
        }
    }
    Ok(found.into())
}

/// Removes a district's log.
pub fn remove(directory: &Path, name: &Name) {
    let path = path_of(directory, name);
    for path in [path.with_extension("log.1"), path] {
        // It may not be there; that is what is wanted.
        let _ = std::fs::remove_file(path);
    }
}

fn path_of(directory: &Path, name: &Name) -> PathBuf {
    directory.join("logs").join(format!("{name}.log"))
}

fn open_for_appending(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// A line that does not parse was cut by a crash: it is left out.
fn parse(name: &Name, line: &str) -> Option<Event> {
    let mut parts = line.splitn(3, ' ');
    let time_ms = parts.next()?.parse().ok()?;
    let epoch = parts.next()?.parse().ok()?;
    Some(event(name, time_ms, epoch, parts.next()?.to_owned()))
}

fn event(name: &Name, time_ms: u64, epoch: u64, text: String) -> Event {
    Event {
        time_ms,
        kind: EventKind::Log,
        district: Some(name.clone()),
        epoch,
        state: Some(State::Running),
        exit_code: None,
        text,
    }
}

/// The text with everything escaped that a terminal might take for a command.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\t' { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> Name {
        Name::new("talker").unwrap()
    }

    #[test]
    fn what_is_written_is_what_the_tail_has() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = Log::open(directory.path(), &name()).unwrap();
        let mut written = log.write(1, b"one\ntwo\n");
        written.extend(log.write(2, b"three \x1b[31m\xff"));
        assert_eq!(written[2].text, "three \\u{1b}[31m\u{fffd}");
        assert_eq!(tail(directory.path(), &name(), 10).unwrap(), written);
        assert_eq!(tail(directory.path(), &name(), 1).unwrap(), written[2..]);
        assert!(tail(directory.path(), &name(), 0).unwrap().is_empty());
    }

    #[test]
    fn a_flood_is_counted_and_bounded_on_disk() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = Log::open(directory.path(), &name()).unwrap();
        let line = [b'x'; 4096];
        let mut kept = 0;
        for _ in 0..3 * LINES_PER_SECOND {
            kept += log.write(1, &line).len();
        }
        // The second may turn once or more while this runs; even so most lines are left out only if it is fast.
        assert!(kept <= 3 * LINES_PER_SECOND as usize + 3);
        let on_disk: u64 = std::fs::read_dir(directory.path().join("logs"))
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        assert!(on_disk <= 2 * FILE_MAX, "{on_disk}");
    }

    #[test]
    fn a_line_cut_by_a_crash_is_left_out() {
        let directory = tempfile::tempdir().unwrap();
        Log::open(directory.path(), &name()).unwrap().write(1, b"whole");
        let mut file = open_for_appending(&path_of(directory.path(), &name())).unwrap();
        file.write_all(b"17950").unwrap();
        Log::open(directory.path(), &name()).unwrap().write(2, b"after");
        let texts: Vec<_> = tail(directory.path(), &name(), 10).unwrap().into_iter().map(|event| event.text).collect();
        assert_eq!(texts, ["whole", "after"]);
    }
}
