//! A host of its own for each test: a state directory, a daemon, and the `district` command on them. Nothing is waited
//! for by time, only until it is so; whatever has been started ends with the [`Host`].

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use district::api::client::Client;
use district::api::event::Event;
use district::api::info::{CheckpointInfo, DistrictInfo, KeyInfo, State};
use district::api::name::Name;
use district_vmm::control::DaemonEnd;
use rustix::net::sockopt::socket_peercred;
use rustix::process::{Signal, set_parent_process_death_signal};
use tempfile::TempDir;

use crate::signals::send;

/// How often it is looked whether something is so.
const POLL: Duration = Duration::from_millis(5);

/// Ends the test without a result where there is no KVM and that was said to be right.
macro_rules! needs_kvm {
    () => {
        if crate::support::is_skipped(std::any::type_name_of_val(&|| {})) {
            return;
        }
    };
}
pub(crate) use needs_kvm;

/// Whether a test is to be skipped. `closure` is the type of a closure in it.
pub fn is_skipped(closure: &str) -> bool {
    if Path::new("/dev/kvm").exists() {
        return false;
    }
    let test = closure.trim_end_matches("::{{closure}}");
    assert!(std::env::var_os("DISTRICT_NO_KVM").is_some_and(|value| value == "1"), "{test} needs /dev/kvm");
    if let Some(list) = std::env::var_os("DISTRICT_SKIPPED") {
        let mut list = OpenOptions::new().append(true).create(true).open(list).unwrap();
        writeln!(list, "{test}").unwrap();
    }
    true
}

/// Whether the host's processor is software.
pub fn is_slow() -> bool {
    std::env::var_os("DISTRICT_SLOW_HOST").is_some_and(|value| value == "1")
}

/// Durations that are long on an ordinary host, on one that is ten times slower.
pub fn at_most(time: Duration) -> Duration {
    if is_slow() { time * 10 } else { time }
}

/// Waits until `look` finds something.
pub fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + at_most(Duration::from_secs(30));
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(POLL);
    }
}

/// The folder with the guest programs.
pub fn images() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/guest")
}

/// A guest program.
pub fn image(name: &str) -> PathBuf {
    let path = images().join(name);
    assert!(path.exists(), "{} is missing: run scripts/build-guests", path.display());
    path
}

/// What a command has come to.
#[derive(Debug)]
pub struct Ran {
    pub status: ExitStatus,
    pub out: String,
    pub err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ran { status: output.status, out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Ran {
    /// Its exit code; none if a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }
}

/// A state directory and everything that lives in it.
pub struct Host {
    folder: TempDir,
    daemon: Option<Child>,
    others: Vec<Child>,
}

impl Host {
    /// One without a daemon.
    pub fn new() -> Host {
        // The programs are there before anything is asked of them.
        image("hello");
        Host { folder: tempfile::Builder::new().prefix("dt-").tempdir().unwrap(), daemon: None, others: Vec::new() }
    }

    /// One with a daemon.
    pub fn with_daemon() -> Host {
        let mut host = Host::new();
        host.start_daemon();
        host
    }

    /// One with a daemon and the districts of this manifest, all of which have begun to run.
    pub fn with(manifest: &str) -> Host {
        let host = Host::with_daemon();
        host.start(manifest);
        for info in host.list() {
            host.until(info.name.as_str(), "has begun", |info| info.state != State::Starting);
        }
        host
    }

    /// The state directory.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_district"));
        command.args(arguments).env("DISTRICT_DIR", self.path()).env("DISTRICT_IMAGES", images());
        command.stdin(Stdio::null());
        // A test run that is killed itself has no other way to end what it has started. `SIGTERM`, because a daemon then
        // ends its districts, too.
        let with_us = || Ok(set_parent_process_death_signal(Some(Signal::TERM))?);
        // SAFETY: `pre_exec` wants a closure that may run between fork and exec of a process with threads: this one makes
        // a system call and allocates nothing.
        unsafe { command.pre_exec(with_us) };
        // So that a signal to the group of the test run is not a second one, at which a daemon ends at once.
        command.process_group(0);
        command
    }

    /// Runs `district` with these arguments to its end.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        self.command(arguments).output().unwrap().into()
    }

    /// Runs `district` with these arguments, which must succeed, and returns what it printed.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert!(ran.status.success(), "{arguments:?}: {ran:?}");
        ran.out
    }

    /// Starts `district` with these arguments, and leaves it running. Its process number.
    pub fn spawn(&mut self, arguments: &[&str]) -> u32 {
        let log = File::create(self.path().join(format!("{}-{}.txt", arguments[0], self.others.len()))).unwrap();
        let child = self.command(arguments).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let pid = child.id();
        self.others.push(child);
        pid
    }

    /// Writes a file into the state directory, where nothing else has its name.
    pub fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, contents).unwrap();
        path
    }

    /// Writes a manifest. Its path.
    pub fn manifest(&self, text: &str) -> String {
        self.file("test.toml", text).to_str().unwrap().to_owned()
    }

    /// Starts the districts of a manifest at the daemon.
    pub fn start(&self, manifest: &str) {
        self.ok(&["start", &self.manifest(manifest)]);
    }

    /// Starts a daemon, and waits until it answers.
    pub fn start_daemon(&mut self) {
        self.spawn_daemon();
        wait("the daemon answers", || self.client());
    }

    /// Starts a daemon.
    pub fn spawn_daemon(&mut self) {
        assert!(self.daemon.is_none());
        let log = OpenOptions::new().append(true).create(true).open(self.path().join("daemon.txt")).unwrap();
        self.daemon = Some(self.command(&["daemon"]).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
    }

    /// Starts a daemon whose districts' files are on a disk of their own with so many bytes, and waits until it answers.
    /// Where the files are seen from here; none where this may not be done, and then the test has no result.
    pub fn start_daemon_on_small_disk(&mut self, bytes: usize) -> Option<PathBuf> {
        let folder = self.path().join("districts");
        fs::create_dir(&folder).unwrap();
        let mut command = self.command(&["daemon"]);
        let mount = small_disk(&folder, bytes);
        // SAFETY: the closure makes system calls with what was prepared before, and allocates nothing.
        unsafe { command.pre_exec(mount) };
        let log = File::create(self.path().join("daemon.txt")).unwrap();
        match command.stdout(log.try_clone().unwrap()).stderr(log).spawn() {
            Ok(daemon) => self.daemon = Some(daemon),
            Err(error) => {
                eprintln!("no result: there can be no small disk: {error}");
                return None;
            }
        }
        wait("the daemon answers", || self.client());
        Some(Path::new("/proc").join(self.daemon_id().to_string()).join("root").join(folder.strip_prefix("/").unwrap()))
    }

    /// The daemon's process.
    pub fn daemon_id(&self) -> u32 {
        self.daemon.as_ref().unwrap().id()
    }

    /// Whether the daemon has not ended.
    pub fn daemon_lives(&mut self) -> bool {
        self.daemon.as_mut().is_some_and(|daemon| daemon.try_wait().unwrap().is_none())
    }

    /// Ends the daemon by a signal, and waits until it has ended.
    pub fn end_daemon(&mut self, signal: Signal) -> ExitStatus {
        let mut daemon = self.daemon.take().unwrap();
        send(daemon.id(), signal);
        let status = wait("the daemon's end", || daemon.try_wait().unwrap());
        if signal == Signal::KILL {
            assert_eq!(status.signal(), Some(signal.as_raw()), "{status}");
        }
        status
    }

    /// Asks the daemon to end, which leaves no vmm process.
    pub fn stop_daemon(&mut self) {
        let status = self.end_daemon(Signal::TERM);
        assert_eq!(status.code(), Some(0), "{status}");
        assert!(!self.sweep(), "the daemon has left a vmm process");
    }

    /// Waits until a command that [`Self::spawn`] has started ends.
    pub fn end_of(&mut self, pid: u32) -> ExitStatus {
        let child = self.others.iter_mut().find(|child| child.id() == pid).unwrap();
        wait("the command's end", || child.try_wait().unwrap())
    }

    /// A client of the daemon, if there is one.
    pub fn client(&self) -> Option<Client> {
        Client::connect(&self.path().join("api.sock")).ok()
    }

    /// All districts.
    pub fn list(&self) -> Vec<DistrictInfo> {
        wait("the list of districts", || self.client()?.list().ok())
    }

    /// A district.
    pub fn info(&self, district: &str) -> DistrictInfo {
        let found = self.list().into_iter().find(|info| info.name.as_str() == district);
        found.unwrap_or_else(|| panic!("no district {district}"))
    }

    /// Waits until a district is as wanted.
    pub fn until(&self, district: &str, what: &str, wanted: impl Fn(&DistrictInfo) -> bool) -> DistrictInfo {
        wait(&format!("{district} {what}"), || Some(self.info(district)).filter(&wanted))
    }

    /// Waits until a district runs.
    pub fn running(&self, district: &str) -> DistrictInfo {
        self.until(district, "runs", |info| info.state == State::Running)
    }

    /// Waits until a district has ended and will not be started again.
    pub fn over(&self, district: &str) -> DistrictInfo {
        self.until(district, "is over", |info| info.state.is_over())
    }

    /// How the last life of a district ended, in words.
    pub fn last_words(&self, district: &str) -> String {
        self.info(district).last_end.map(|end| end.text).unwrap_or_default()
    }

    /// Ends a district's vmm process with `SIGKILL`, and waits until the daemon knows.
    pub fn kill(&self, district: &str) {
        let life = self.until(district, "has a process", |info| info.pid.is_some());
        if let Some(pid) = life.pid {
            send(pid, Signal::KILL);
        }
        self.until(district, "has lost its process", |info| info.pid != life.pid || info.epoch != life.epoch);
    }

    /// How long `district stop` takes: the shortest of three times, because a busy host may delay one. The district runs
    /// before and after.
    pub fn quickest_stop(&self, district: &str) -> Duration {
        let stop = |_| {
            self.running(district);
            let start = Instant::now();
            self.ok(&["stop", district]);
            let time = start.elapsed();
            assert_eq!(self.info(district).state, State::Stopped);
            self.ok(&["start", district]);
            time
        };
        (0..3).map(stop).min().unwrap()
    }

    /// Has a checkpoint of a district taken.
    pub fn checkpoint(&self, district: &str) -> CheckpointInfo {
        self.client().unwrap().checkpoint(&name(district)).unwrap()
    }

    /// The checkpoints that a district has.
    pub fn checkpoints(&self, district: &str) -> Vec<CheckpointInfo> {
        self.client().unwrap().checkpoints(&name(district)).unwrap()
    }

    /// Starts a district that ends by itself, waits until it has, and returns the last line that it has logged.
    pub fn run_again(&self, district: &str) -> String {
        let epoch = self.info(district).epoch;
        self.ok(&["start", district]);
        let end = self.until(district, "is over", |info| info.epoch > epoch && info.state.is_over());
        assert_eq!(end.last_end.unwrap().text, "exited with code 0", "{district}");
        self.lines(district).pop().unwrap()
    }

    /// The files of a district.
    pub fn directory(&self, district: &str) -> PathBuf {
        self.path().join("districts").join(self.info(district).id)
    }

    /// The keys of a district.
    pub fn keys(&self, district: &str) -> Vec<KeyInfo> {
        wait("the list of keys", || self.client()?.keys(Some(&name(district))).ok())
    }

    /// All that a district has logged.
    pub fn log(&self, district: &str) -> Vec<Event> {
        wait("the log", || {
            let client = self.client()?;
            client.logs(&[name(district)], 100_000, false).ok()?.collect::<Result<Vec<_>, _>>().ok()
        })
    }

    /// The texts of all that a district has logged.
    pub fn lines(&self, district: &str) -> Vec<String> {
        self.log(district).into_iter().map(|event| event.text).collect()
    }

    /// Waits until a district logs a line with this in it, beyond the first `skip` lines. The line.
    pub fn line_after(&self, district: &str, skip: usize, part: &str) -> String {
        wait(&format!("{district} says {part:?}"), || {
            self.lines(district).into_iter().skip(skip).find(|line| line.contains(part))
        })
    }

    /// Waits until a district has logged lines with these in them, in this order, beyond the first `skip` lines. The last
    /// of them.
    pub fn lines_after(&self, district: &str, skip: usize, parts: &[&str]) -> String {
        wait(&format!("{district} says {parts:?}"), || {
            let mut lines = self.lines(district).into_iter().skip(skip);
            parts.iter().try_fold(String::new(), |_, part| lines.find(|line| line.contains(part)))
        })
    }

    /// Waits until a district has logged a line with this in it. The line.
    pub fn line(&self, district: &str, part: &str) -> String {
        self.line_after(district, 0, part)
    }

    /// What happens from now on, log lines left out, until the daemon ends.
    pub fn events(&self) -> Receiver<Event> {
        let (sender, events) = mpsc::channel();
        let (ready, is_ready) = mpsc::channel();
        let client = self.client().unwrap();
        std::thread::spawn(move || {
            let events = client.events(&[], false).unwrap();
            ready.send(()).unwrap();
            for event in events {
                let Ok(event) = event else { return };
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        is_ready.recv().unwrap();
        events
    }

    /// Ends every vmm process that is reached from the state directory. Whether there was any.
    fn sweep(&self) -> bool {
        let mut found = false;
        for socket in fs::read_dir(self.path().join("run")).into_iter().flatten().flatten() {
            let Ok(connection) = DaemonEnd::connect(&socket.path()) else { continue };
            found = true;
            let pid = socket_peercred(&connection).unwrap().pid.as_raw_nonzero().get().unsigned_abs();
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            // One that has just been started does not listen itself yet; its daemon did, and is gone.
            if command.split(|byte| *byte == 0).nth(1) == Some(b"vmm") {
                send(pid, Signal::KILL);
            }
        }
        found
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let report = self.run(&["ps"]);
            let daemon = fs::read_to_string(self.path().join("daemon.txt")).unwrap_or_default();
            eprintln!("{}{}daemon: {daemon}", report.out, report.err);
            for log in fs::read_dir(self.path().join("logs")).into_iter().flatten().flatten() {
                let text = fs::read_to_string(log.path()).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                eprintln!("{}:\n{}", log.path().display(), lines[lines.len().saturating_sub(20)..].join("\n"));
            }
        }
        for child in self.daemon.iter_mut().chain(&mut self.others) {
            let _ = child.kill();
            let _ = child.wait();
        }
        let deadline = Instant::now() + at_most(Duration::from_secs(10));
        while self.sweep() {
            if Instant::now() > deadline {
                eprintln!("vmm processes at {} do not end", self.path().display());
                return;
            }
            std::thread::sleep(POLL);
        }
    }
}

/// Gives the process that runs it a view of the files in which `folder` is empty and has so many bytes.
fn small_disk(folder: &Path, bytes: usize) -> impl FnMut() -> std::io::Result<()> + use<> {
    let folder = CString::new(text(folder)).unwrap();
    let options = CString::new(format!("size={bytes}")).unwrap();
    let (user, group) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let maps = [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("{user} {user} 1")),
        ("/proc/self/gid_map", format!("{group} {group} 1")),
    ];
    let done = |result: i32| if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) };
    move || {
        // SAFETY: no memory is involved.
        let own = done(unsafe { libc::unshare(libc::CLONE_NEWNS) });
        if own.is_err() {
            // SAFETY: as above.
            done(unsafe { libc::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWUSER) })?;
            for (path, map) in &maps {
                let file = rustix::fs::open(*path, rustix::fs::OFlags::WRONLY, rustix::fs::Mode::empty())?;
                rustix::io::write(file, map.as_bytes())?;
            }
        }
        let private = libc::MS_REC | libc::MS_PRIVATE;
        let (root, tmpfs, null) = (c"/".as_ptr(), c"tmpfs".as_ptr(), std::ptr::null::<libc::c_void>());
        // SAFETY: the strings end with NUL and live as long as the call; null says that there is none.
        done(unsafe { libc::mount(null.cast(), root, null.cast(), private, null) })?;
        // SAFETY: as above.
        done(unsafe { libc::mount(tmpfs, folder.as_ptr(), tmpfs, 0, options.as_ptr().cast()) })
    }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// A path as a string; those of tests can be.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// How many calls ended in a way, as `hoard` tells it: `...: Replied=3 Unknown(Deadline)=1`.
pub fn count_of(line: &str, outcome: &str) -> u32 {
    let found = line.split_whitespace().find_map(|word| word.strip_prefix(outcome)?.strip_prefix('='));
    found.map_or(0, |number| number.parse().unwrap())
}

/// How many calls ended at all.
pub fn count_of_all(line: &str) -> u32 {
    line.split_whitespace().filter_map(|word| word.rsplit_once('=')?.1.parse::<u32>().ok()).sum()
}
