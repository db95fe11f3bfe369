//! The API from end to end: the real client and the real server, with a stand-in for the event loop.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use district::api::client::{Client, ClientError};
use district::api::command::{Command, Leave, LogRequest, MemoryCommand};
use district::api::event::{Event, EventKind};
use district::api::feed::{FEED_CAPACITY, Feed, Filter};
use district::api::info::{CheckpointInfo, DistrictInfo, KeyInfo, State};
use district::api::mailbox::{Inbox, mailbox};
use district::api::name::Name;
use district::api::refusal::{Refusal, RefusalKind};
use district::api::server::{Server, listen, serve};
use district::api::snapshot::{Beginning, CloneRequest, SnapshotInfo, Tag};
use district::api::spec::Spec;
use rustix::event::{PollFd, PollFlags, poll};
use tempfile::TempDir;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn info(text: &str, state: State) -> DistrictInfo {
    DistrictInfo {
        name: name(text),
        id: "0123456789abcdef0123456789abcdef".to_owned(),
        state,
        epoch: 1,
        pid: Some(7),
        restarts: 0,
        uptime_ms: Some(5),
        memory: 16 << 20,
        last_end: None,
    }
}

fn log(text: &str) -> Event {
    Event::now(EventKind::Log, name("a"), 1, State::Running, text)
}

/// Waits for commands as the event loop does, and answers them from a small world: `a` runs, nothing else exists.
fn fake_loop(inbox: Inbox, feeds: mpsc::Sender<Feed>) {
    loop {
        poll(&mut [PollFd::new(&inbox, PollFlags::IN)], None).unwrap();
        for command in inbox.take() {
            if !answer(command, &feeds) {
                return;
            }
        }
    }
}

fn answer(command: Command, feeds: &mpsc::Sender<Feed>) -> bool {
    let known = |name: &Name| if name.as_str() == "a" { Ok(()) } else { Err(Refusal::no_district(name)) };
    match command {
        Command::Start(specs, reply) => {
            reply.send(Ok(specs.iter().map(|spec| info(spec.name.as_str(), State::Starting)).collect()));
        }
        Command::StartExisting(name, from, reply) | Command::Restart(name, from, reply) => {
            assert!(from == Beginning::Newest || from == Beginning::Tag(tag("t")), "{from:?}");
            reply.send(known(&name).map(|()| info("a", State::Starting)));
        }
        Command::Stop(name, reply) => reply.send(known(&name).map(|()| info("a", State::Stopped))),
        Command::Remove(name, reply) => reply.send(
            known(&name)
                .and_then(|()| Err(Refusal::new(RefusalKind::Conflict, "`a` is running").remedy("stop it first"))),
        ),
        Command::List(reply) => reply.send(Ok(vec![info("a", State::Running)])),
        Command::Logs(LogRequest { lines, follow, reply, .. }) => {
            reply.send(Ok((0..lines.min(3)).map(|index| log(&index.to_string())).collect()));
            if let Some(feed) = follow {
                feed.offer(&log("later"));
                feeds.send(feed).unwrap();
            }
        }
        Command::Events(feed, reply) => {
            reply.send(Ok(()));
            feeds.send(feed).unwrap();
        }
        Command::Inspect(name, reply) => reply.send(Ok(name.iter().map(key).collect())),
        Command::Memory(name, command) => match known(&name) {
            Ok(()) => about_memory(command),
            Err(refusal) => command.refuse(refusal),
        },
        Command::Snapshots(reply) => reply.send(Ok(Vec::new())),
        Command::Import(request, reply) => {
            assert!(request.path.is_absolute());
            reply.send(Ok(info(request.name.as_str(), State::Stopped)));
        }
        Command::Shutdown(leave, reply) => {
            assert_eq!(leave, Leave::Running);
            reply.send(Ok(()));
            return false;
        }
    }
    true
}

fn tag(text: &str) -> Tag {
    Tag::new(text).unwrap()
}

fn checkpoint() -> CheckpointInfo {
    CheckpointInfo { generation: 7, restorable: true, ..CheckpointInfo::default() }
}

fn snapshot(tag: String) -> SnapshotInfo {
    let tag = Tag::new(&tag).unwrap();
    SnapshotInfo { district: name("a"), tag, generation: 7, time_ms: 1, memory: 16 << 20, disk: 4096 }
}

fn about_memory(command: MemoryCommand) {
    match command {
        MemoryCommand::Checkpoint(reply) => reply.send(Ok(checkpoint())),
        MemoryCommand::Checkpoints(reply) => reply.send(Ok(vec![checkpoint()])),
        MemoryCommand::Snapshot(Some(tag), reply) if tag.as_str() == "slow" => {
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(1600));
                reply.send(Ok(snapshot(tag.to_string())));
            });
        }
        MemoryCommand::Snapshot(tag, reply) => {
            reply.send(Ok(snapshot(tag.map_or("g7".to_owned(), |tag| tag.to_string()))));
        }
        MemoryCommand::Snapshots(reply) => reply.send(Ok(vec![snapshot("t".to_owned())])),
        MemoryCommand::RemoveSnapshot(_, reply) => reply.send(Ok(())),
        MemoryCommand::Clone(request, reply) => reply.send(Ok(info(request.name.as_str(), State::Starting))),
        MemoryCommand::Export(tag, path, reply) => {
            assert!(path.is_absolute());
            reply.send(Ok(snapshot(tag.to_string())));
        }
    }
}

fn key(holder: &Name) -> KeyInfo {
    KeyInfo {
        holder: holder.clone(),
        handle: 1,
        kind: "directory".to_owned(),
        target: "grants".to_owned(),
        rights: vec!["lookup".to_owned()],
        badge: None,
        weak: false,
        from: None,
        broken: None,
    }
}

struct World {
    folder: TempDir,
    server: Option<Server>,
    thread: Option<JoinHandle<()>>,
    feeds: mpsc::Receiver<Feed>,
}

impl World {
    fn new() -> World {
        let folder = tempfile::tempdir().unwrap();
        let (mailbox, inbox) = mailbox().unwrap();
        let server = serve(listen(&folder.path().join("api.sock")).unwrap(), mailbox).unwrap();
        let (sender, feeds) = mpsc::channel();
        let thread = std::thread::spawn(move || fake_loop(inbox, sender));
        World { folder, server: Some(server), thread: Some(thread), feeds }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("api.sock")
    }

    fn client(&self) -> Client {
        Client::connect(&self.socket()).unwrap()
    }

    /// One raw request, and the whole answer.
    fn raw(&self, request: &str) -> String {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn post(&self, path: &str, body: &str) -> String {
        self.raw(&format!("POST {path} HTTP/1.1\r\nhost: d\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
    }

    fn get(&self, path: &str) -> String {
        self.raw(&format!("GET {path} HTTP/1.1\r\nhost: d\r\n\r\n"))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take()
            && !thread.is_finished()
        {
            self.client().shutdown(Leave::Running).unwrap();
            thread.join().unwrap();
        }
        self.server.take();
    }
}

#[test]
fn every_command_goes_through_and_its_answer_comes_back() {
    let world = World::new();
    let client = world.client();
    assert_eq!(client.version().unwrap().pid, std::process::id());
    assert_eq!(client.list().unwrap(), [info("a", State::Running)]);
    let specs = vec![Spec::new(name("b"), "/b".into()), Spec::new(name("c"), "/c".into())];
    let started = client.start(specs).unwrap();
    assert_eq!(started, [info("b", State::Starting), info("c", State::Starting)]);
    assert_eq!(client.start_existing(&name("a")).unwrap().state, State::Starting);
    assert_eq!(client.restart(&name("a")).unwrap().state, State::Starting);
    assert_eq!(client.stop(&name("a")).unwrap().state, State::Stopped);
    assert_eq!(client.keys(Some(&name("a"))).unwrap(), [key(&name("a"))]);
    assert_eq!(client.keys(None).unwrap(), []);
    assert!(world.get("/v1/districts/a").starts_with("HTTP/1.1 200"));
}

#[test]
fn what_is_about_memory_goes_through_too() {
    let world = World::new();
    let (client, a) = (world.client(), name("a"));
    assert_eq!(client.checkpoint(&a).unwrap(), checkpoint());
    assert_eq!(client.checkpoints(&a).unwrap(), [checkpoint()]);
    assert_eq!(client.snapshot(&a, None).unwrap(), snapshot("g7".to_owned()));
    assert_eq!(client.snapshot(&a, Some(tag("t"))).unwrap(), snapshot("t".to_owned()));
    assert_eq!(client.snapshots(Some(&a)).unwrap(), [snapshot("t".to_owned())]);
    assert_eq!(client.snapshots(None).unwrap(), []);
    client.remove_snapshot(&a, &tag("t")).unwrap();
    let request = CloneRequest { name: name("b"), from: Some(tag("t")) };
    assert_eq!(client.clone_district(&a, &request).unwrap(), info("b", State::Starting));
    assert_eq!(client.export(&a, &tag("t"), Path::new("/f")).unwrap(), snapshot("t".to_owned()));
    assert_eq!(client.import(Path::new("/f"), &name("c")).unwrap(), info("c", State::Stopped));
    let from = || Beginning::Tag(tag("t"));
    assert_eq!(client.start_from(&a, from()).unwrap().state, State::Starting);
    assert_eq!(client.restart_from(&a, from()).unwrap().state, State::Starting);
    // A request without a body is for what is usual.
    for path in ["start", "restart", "snapshots"] {
        let answer = world.post(&format!("/v1/districts/a/{path}"), "");
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    }
}

#[test]
fn bodies_about_memory_that_are_wrong_are_refused() {
    let world = World::new();
    for (path, body, text) in [
        ("districts/a/restart", "{\"from\": \"oldest\"}", "unknown variant `oldest`"),
        ("districts/a/restart", "{\"from\": {\"generation\": -1}}", "invalid value: integer `-1`"),
        ("districts/a/restart", "{\"from\": {\"tag\": \"17\"}}", "tag `17` is a number"),
        ("districts/a/start", "{\"form\": \"cold\"}", "unknown field `form`"),
        ("districts/a/start", "[", "the body does not fit this path"),
        ("districts/a/snapshots", "{\"tag\": \"a/b\"}", "tag name \\\"a/b\\\" has the character '/'"),
        ("districts/a/snapshots", "{\"tag\": 17}", "invalid type: integer `17`"),
        ("districts/a/snapshots", "{\"name\": \"t\"}", "unknown field `name`"),
        ("districts/a/clone", "", "the body does not fit this path"),
        ("districts/a/clone", "{}", "missing field `name`"),
        ("districts/a/clone", "{\"name\": \"B\"}", "has the character 'B'"),
        ("districts/a/snapshots/t/export", "{}", "missing field `path`"),
        ("districts/a/snapshots/t/export", "{\"path\": \"f\"}", "path f is not absolute"),
        ("districts/a/snapshots/7/export", "{\"path\": \"/f\"}", "tag `7` is a number"),
        ("districts/a/snapshots/..%2fx/export", "{\"path\": \"/f\"}", "has the character '.'"),
        ("import", "{\"path\": \"/f\"}", "missing field `name`"),
        ("import", "{\"path\": \"f\", \"name\": \"c\"}", "path f is not absolute"),
        ("import", "{\"path\": \"/f\", \"name\": \"c\", \"start\": true}", "unknown field `start`"),
    ] {
        let answer = world.post(&format!("/v1/{path}"), body);
        assert!(answer.starts_with("HTTP/1.1 400 "), "{path} {body}: {answer}");
        assert!(answer.contains(text), "{path} {body}: {answer}");
    }
}

#[test]
fn a_command_that_waits_shows_how_far_it_is() {
    let world = World::new();
    let command = |tag: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_district"));
        command.args(["snapshot", "a", "--tag", tag, "--dir", world.folder.path().to_str().unwrap()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let mut slow = command("slow");
    let feed = world.feeds.recv().unwrap();
    assert_eq!(feed.filter(), &Filter { districts: vec![name("a")], logs: false, changes: true });
    let begin = Instant::now();
    while slow.try_wait().unwrap().is_none() {
        let percent = begin.elapsed().as_millis() / 20;
        feed.offer(&Event::now(EventKind::Progress, name("a"), 1, State::Running, format!("snapshot: {percent} %")));
        feed.offer(&Event::now(EventKind::Started, name("a"), 1, State::Running, "of no interest"));
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = slow.wait_with_output().unwrap();
    let said = text(output.stderr);
    let percent = said.strip_prefix("snapshot: ").and_then(|rest| rest.strip_suffix(" %\n"));
    // Once, because a line is not rewritten here, and after a second.
    assert!(percent.is_some_and(|percent| percent.parse::<u32>().is_ok_and(|percent| percent >= 40)), "{said:?}");
    assert_eq!(text(output.stdout), "a  snapshot slow of generation 7: 16 MiB of memory, 4 KiB on the disk\n");

    let quick = command("quick").wait_with_output().unwrap();
    assert_eq!(text(quick.stderr), "");
}

#[test]
fn refusals_arrive_with_their_kind_and_remedy() {
    let world = World::new();
    let client = world.client();
    let refusal = |error| match error {
        ClientError::Refused(refusal) => refusal,
        other => panic!("{other}"),
    };
    let busy = refusal(client.remove(&name("a")).unwrap_err());
    assert_eq!((busy.kind, busy.problem.remedy.as_deref()), (RefusalKind::Conflict, Some("stop it first")));
    let unknown = refusal(client.stop(&name("z")).unwrap_err());
    assert_eq!(unknown, Refusal::no_district(&name("z")));
    assert_eq!(refusal(client.restart(&name("z")).unwrap_err()).kind, RefusalKind::NotFound);
}

#[test]
fn logs_are_what_was_there_and_then_what_comes() {
    let world = World::new();
    let client = world.client();
    let texts = |events: Vec<Event>| events.into_iter().map(|event| event.text).collect::<Vec<_>>();
    let all = client.logs(&[name("a")], 2, false).unwrap().collect::<Result<Vec<_>, _>>().unwrap();
    assert_eq!(texts(all), ["0", "1"]);

    let stream = client.logs(&[], 9, true).unwrap();
    // Dropping the loop's end ends the stream.
    drop(world.feeds.recv().unwrap());
    assert_eq!(texts(stream.collect::<Result<Vec<_>, _>>().unwrap()), ["0", "1", "2", "later"]);
}

#[test]
fn nothing_is_missed_between_the_answer_and_the_first_event() {
    let world = World::new();
    let client = world.client();
    let mut stream = client.events(&[name("a")], false).unwrap();
    let feed = world.feeds.recv().unwrap();
    assert!(feed.offer(&log("not asked for")));
    assert!(feed.offer(&Event::now(EventKind::Started, name("a"), 4, State::Running, "started (epoch 4)")));
    let event = stream.next().unwrap().unwrap();
    assert_eq!((event.kind, event.epoch), (EventKind::Started, 4));
}

#[test]
fn a_reader_that_does_not_read_costs_nothing_and_learns_what_it_missed() {
    const COUNT: usize = 200_000;
    let world = World::new();
    let client = world.client();
    let stream = client.events(&[], true).unwrap();
    let feed = world.feeds.recv().unwrap();
    for index in 0..COUNT {
        assert!(feed.offer(&log(&index.to_string())));
    }
    drop(feed);
    let (mut read, mut missed) = (0, 0);
    for event in stream {
        let event = event.unwrap();
        match event.kind {
            EventKind::Dropped => missed += event.text.split(' ').next().unwrap().parse::<usize>().unwrap(),
            _ => read += 1,
        }
    }
    assert_eq!(read + missed, COUNT);
    assert!(read >= FEED_CAPACITY && missed > 0, "read {read}, missed {missed}");
}

#[test]
fn the_loop_learns_that_a_reader_has_gone() {
    let world = World::new();
    let client = world.client();
    let stream = client.events(&[], true).unwrap();
    let feed = world.feeds.recv().unwrap();
    drop(stream);
    drop(client);
    // The server sees the closed socket in its own time; until then what is offered is dropped or counted.
    let deadline = Instant::now() + Duration::from_secs(10);
    while feed.offer(&log("x")) {
        assert!(Instant::now() < deadline, "the feed stays open");
        std::thread::yield_now();
    }
}

#[test]
fn what_is_wrong_is_answered_in_json_with_the_status_that_fits() {
    let world = World::new();
    for (answer, status, text) in [
        (world.get("/v2/districts"), 404, "no such path"),
        (world.get("/v1/districts/zz"), 404, "no district has the name `zz`"),
        (world.get("/v1/districts/..%2f..%2fetc"), 400, "has the character '.'"),
        (world.get("/v1/shutdown"), 405, "this path has no such method"),
        (world.get("/v1/logs?lines=x"), 400, "the query does not fit this path"),
        (world.get("/v1/keys?districts=a,b"), 400, "the keys of several districts were asked for"),
        (world.get("/v1/events?districts=a,B"), 400, "has the character 'B'"),
        (world.post("/v1/districts", "{"), 400, "the body does not fit this path"),
        (world.post("/v1/districts", "{\"districts\": [], \"more\": 1}"), 400, "unknown field `more`"),
        (
            world.post("/v1/districts", "{\"districts\": [{\"name\": \"a\", \"image\": \"i\"}]}"),
            400,
            "district `a`: image path i is not absolute",
        ),
        (
            world.post(
                "/v1/districts",
                "{\"districts\": [{\"name\": \"a\", \"image\": \"/i\"}, {\"name\": \"a\", \"image\": \"/i\"}]}",
            ),
            400,
            "district `a` is there twice",
        ),
        (world.post("/v1/districts", &" ".repeat((1 << 20) + 1)), 400, "more than 1048576 bytes"),
    ] {
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{text}: {answer}");
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        let problem: serde_json::Value = serde_json::from_str(body).unwrap();
        assert!(problem["error"].as_str().unwrap().contains(text), "{text}: {answer}");
    }
    // It is still there.
    assert_eq!(world.client().list().unwrap().len(), 1);
}

#[test]
fn only_the_owner_can_open_the_socket_and_an_old_one_makes_way() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    for _ in 0..2 {
        let _listener = listen(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    std::fs::write(folder.path().join("file"), "precious").unwrap();
    assert!(listen(&folder.path().join("file")).is_err());
    assert!(folder.path().join("file").exists());
}

#[test]
fn no_daemon_and_a_strange_one_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let nobody = Client::connect(Path::new("/nowhere/api.sock")).unwrap_err();
    assert!(matches!(nobody, ClientError::NoDaemon(_)), "{nobody}");

    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let stranger = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"220 mail.example ESMTP\r\n").unwrap();
    });
    let strange = Client::connect(&path).unwrap_err();
    assert!(matches!(strange, ClientError::Lost(_) | ClientError::Strange(_)), "{strange}");
    stranger.join().unwrap();
    let dead = Client::connect(&path).unwrap_err();
    assert!(matches!(dead, ClientError::NoDaemon(_)), "{dead}");
}

#[test]
fn when_the_loop_has_ended_requests_are_refused_and_the_server_ends_in_spite_of_open_streams() {
    let mut world = World::new();
    let client = world.client();
    let _stream = client.events(&[], true).unwrap();
    let _feed = world.feeds.recv().unwrap();
    world.client().shutdown(Leave::Running).unwrap();
    world.thread.take().unwrap().join().unwrap();
    let error = client.list().unwrap_err().to_string();
    assert!(error.starts_with("the daemon is shutting down"), "{error}");
    world.server.take().unwrap().stop();
    assert!(matches!(client.list().unwrap_err(), ClientError::NoDaemon(_)));
}

#[test]
fn the_examples_of_the_documentation_are_right() {
    let text = include_str!("../../docs/api.md");
    let examples: Vec<&str> = text.split("```json").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    let [spec, district, checkpoint, snapshot, event, key] = examples[..] else { panic!("{examples:?}") };
    assert_eq!(serde_json::from_str::<Spec>(spec).unwrap().check(), Ok(()));
    serde_json::from_str::<DistrictInfo>(district).unwrap();
    serde_json::from_str::<CheckpointInfo>(checkpoint).unwrap();
    serde_json::from_str::<SnapshotInfo>(snapshot).unwrap();
    serde_json::from_str::<Event>(event).unwrap();
    serde_json::from_str::<KeyInfo>(key).unwrap();
}
