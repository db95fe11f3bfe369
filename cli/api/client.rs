//! The client of the API, for ordinary threads: each call waits for its answer.

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::command::Leave;
use super::event::Event;
use super::info::{CheckpointInfo, DistrictInfo, KeyInfo, Version};
use super::name::Name;
use super::refusal::{Problem, Refusal, RefusalKind};
use super::routes::{ShutdownRequest, StartRequest};
use super::snapshot::{
    Beginning, CloneRequest, ExportRequest, ImportRequest, SnapshotInfo, SnapshotRequest, StartFrom, Tag,
};
use super::spec::Spec;

/// How long an answer may take; the slowest request ends a district after a last checkpoint, which has a minute.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// The same for a request that has memory written or read, up to 64 GiB of it.
const LONG_TIMEOUT: Duration = Duration::from_secs(3600);
/// Most bytes of an answer that is not a stream, and of one line of a stream.
const ANSWER_MAX: usize = 64 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens at the socket: start a daemon.
    #[error("no daemon is running at {}", .0.display())]
    NoDaemon(PathBuf),
    /// The daemon answered that it will not: do what its remedy says.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The socket cannot be used, or the daemon went away before it had answered.
    #[error("the daemon went away, or cannot be reached: {0}")]
    Lost(String),
    /// The daemon is another version, or something else listens there.
    #[error("the answer of the daemon makes no sense: {0}")]
    Strange(String),
}

/// A client of the daemon at one socket. Each request is a connection of its own.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    runtime: Runtime,
}

impl Client {
    /// A client of the daemon that listens at `socket`.
    ///
    /// # Errors
    /// None listens there, or it does not speak this protocol.
    pub fn connect(socket: &Path) -> Result<Client, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(|error| ClientError::Lost(error.to_string()))?;
        let client = Client { socket: socket.to_owned(), runtime };
        client.version()?;
        Ok(client)
    }

    /// Where the daemon listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Who answers.
    ///
    /// # Errors
    /// See [`ClientError`]; so for all that follow.
    pub fn version(&self) -> Result<Version, ClientError> {
        self.get("/v1/version")
    }

    /// All districts, by name.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn list(&self) -> Result<Vec<DistrictInfo>, ClientError> {
        self.get("/v1/districts")
    }

    /// Makes districts so and starts them, all or none.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn start(&self, districts: Vec<Spec>) -> Result<Vec<DistrictInfo>, ClientError> {
        self.request(Method::POST, "/v1/districts", encoded(&StartRequest { districts })?)
    }

    /// Starts a known district.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn start_existing(&self, name: &Name) -> Result<DistrictInfo, ClientError> {
        self.start_from(name, Beginning::Newest)
    }

    /// The same, with this memory.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn start_from(&self, name: &Name, from: Beginning) -> Result<DistrictInfo, ClientError> {
        self.request(Method::POST, &format!("/v1/districts/{name}/start"), encoded(&StartFrom { from })?)
    }

    /// Ends a district.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn stop(&self, name: &Name) -> Result<DistrictInfo, ClientError> {
        self.request(Method::POST, &format!("/v1/districts/{name}/stop"), Vec::new())
    }

    /// Ends a district and starts it in a new epoch.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn restart(&self, name: &Name) -> Result<DistrictInfo, ClientError> {
        self.restart_from(name, Beginning::Newest)
    }

    /// The same, with this memory.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn restart_from(&self, name: &Name, from: Beginning) -> Result<DistrictInfo, ClientError> {
        self.request(Method::POST, &format!("/v1/districts/{name}/restart"), encoded(&StartFrom { from })?)
    }

    /// Keeps a district's memory under a name.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn snapshot(&self, name: &Name, tag: Option<Tag>) -> Result<SnapshotInfo, ClientError> {
        self.long(&format!("/v1/districts/{name}/snapshots"), encoded(&SnapshotRequest { tag })?)
    }

    /// The snapshots of one district, or of all.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn snapshots(&self, name: Option<&Name>) -> Result<Vec<SnapshotInfo>, ClientError> {
        let path = name.map_or("/v1/snapshots".to_owned(), |name| format!("/v1/districts/{name}/snapshots"));
        self.get(&path)
    }

    /// Forgets a snapshot.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn remove_snapshot(&self, name: &Name, tag: &Tag) -> Result<(), ClientError> {
        self.request(Method::DELETE, &format!("/v1/districts/{name}/snapshots/{tag}"), Vec::new())
    }

    /// Makes and starts a copy of a district.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn clone_district(&self, name: &Name, request: &CloneRequest) -> Result<DistrictInfo, ClientError> {
        self.long(&format!("/v1/districts/{name}/clone"), encoded(request)?)
    }

    /// Writes a snapshot to a new file at this absolute path.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn export(&self, name: &Name, tag: &Tag, path: &Path) -> Result<SnapshotInfo, ClientError> {
        let request = ExportRequest { path: path.to_owned() };
        self.long(&format!("/v1/districts/{name}/snapshots/{tag}/export"), encoded(&request)?)
    }

    /// Makes a district of the exported snapshot at this absolute path, and does not start it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn import(&self, path: &Path, name: &Name) -> Result<DistrictInfo, ClientError> {
        self.long("/v1/import", encoded(&ImportRequest { path: path.to_owned(), name: name.clone() })?)
    }

    /// Takes a checkpoint of a running district.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn checkpoint(&self, name: &Name) -> Result<CheckpointInfo, ClientError> {
        self.long(&format!("/v1/districts/{name}/checkpoints"), Vec::new())
    }

    /// The checkpoints that a district has, by number.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn checkpoints(&self, name: &Name) -> Result<Vec<CheckpointInfo>, ClientError> {
        self.get(&format!("/v1/districts/{name}/checkpoints"))
    }

    /// Forgets a district that is not running.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn remove(&self, name: &Name) -> Result<(), ClientError> {
        self.request(Method::DELETE, &format!("/v1/districts/{name}"), Vec::new())
    }

    /// The keys that one district holds, or all.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn keys(&self, name: Option<&Name>) -> Result<Vec<KeyInfo>, ClientError> {
        self.get(&format!("/v1/keys?districts={}", name.map_or("", Name::as_str)))
    }

    /// The last `lines` lines of logs, and with `follow` those that come, until the daemon ends.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn logs(&self, districts: &[Name], lines: usize, follow: bool) -> Result<Events<'_>, ClientError> {
        self.stream(&format!("/v1/logs?districts={}&lines={lines}&follow={follow}", joined(districts)))
    }

    /// What happens from now on to these districts, or to all.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn events(&self, districts: &[Name], logs: bool) -> Result<Events<'_>, ClientError> {
        self.stream(&format!("/v1/events?districts={}&logs={logs}", joined(districts)))
    }

    /// Ends the daemon.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn shutdown(&self, districts: Leave) -> Result<(), ClientError> {
        self.request(Method::POST, "/v1/shutdown", encoded(&ShutdownRequest { districts })?)
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.request(Method::GET, path, Vec::new())
    }

    fn request<T: DeserializeOwned>(&self, method: Method, path: &str, body: Vec<u8>) -> Result<T, ClientError> {
        self.request_within(ANSWER_TIMEOUT, method, path, body)
    }

    /// A request that has a district's whole memory written or read.
    fn long<T: DeserializeOwned>(&self, path: &str, body: Vec<u8>) -> Result<T, ClientError> {
        self.request_within(LONG_TIMEOUT, Method::POST, path, body)
    }

    fn request_within<T: DeserializeOwned>(
        &self,
        time: Duration,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<T, ClientError> {
        self.runtime.block_on(async {
            let answer = async { collect(self.exchange(method, path, body).await?).await };
            let bytes = timeout(time, answer).await.map_err(|_| late(time))??;
            serde_json::from_slice(&bytes).map_err(|error| ClientError::Strange(error.to_string()))
        })
    }

    fn stream(&self, path: &str) -> Result<Events<'_>, ClientError> {
        let answer = self.exchange(Method::GET, path, Vec::new());
        let response = self
            .runtime
            .block_on(async { timeout(ANSWER_TIMEOUT, answer).await.map_err(|_| late(ANSWER_TIMEOUT))? })?;
        Ok(Events { client: self, body: response.into_body(), buffer: Vec::new(), read: 0 })
    }

    /// Sends one request; the answer is a success when this returns.
    async fn exchange(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Response<Incoming>, ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NoDaemon(self.socket.clone()),
            _ => ClientError::Lost(error.to_string()),
        })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
        // The connection's own errors come back through the request and the body.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "district")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| ClientError::Strange(error.to_string()))?;
        let response = sender.send_request(request).await.map_err(lost)?;
        if response.status().is_success() {
            return Ok(response);
        }
        let kind = RefusalKind::from_status(response.status().as_u16());
        let bytes = collect(response).await?;
        let problem: Problem =
            serde_json::from_slice(&bytes).map_err(|error| ClientError::Strange(error.to_string()))?;
        Err(ClientError::Refused(Refusal { kind, problem }))
    }
}

fn encoded(body: &impl Serialize) -> Result<Vec<u8>, ClientError> {
    serde_json::to_vec(body).map_err(|error| ClientError::Strange(error.to_string()))
}

fn joined(names: &[Name]) -> String {
    names.iter().map(Name::as_str).collect::<Vec<_>>().join(",")
}

fn lost(error: hyper::Error) -> ClientError {
    ClientError::Lost(error.to_string())
}

fn late(time: Duration) -> ClientError {
    ClientError::Lost(format!("no answer within {} s", time.as_secs()))
}

async fn collect(response: Response<Incoming>) -> Result<Vec<u8>, ClientError> {
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(lost)?.into_data() {
            bytes.extend_from_slice(&data);
        }
        if bytes.len() > ANSWER_MAX {
            return Err(ClientError::Strange(format!("more than {ANSWER_MAX} bytes")));
        }
    }
    Ok(bytes)
}

/// A stream of events; each `next` waits for one. It ends when the daemon ends it.
#[derive(Debug)]
pub struct Events<'a> {
    client: &'a Client,
    body: Incoming,
    buffer: Vec<u8>,
    /// Bytes of `buffer` that have been passed on.
    read: usize,
}

impl Events<'_> {
    fn line(&mut self) -> Option<Result<Event, ClientError>> {
        let rest = &self.buffer[self.read..];
        let length = rest.iter().position(|byte| *byte == b'\n')?;
        let event = serde_json::from_slice(&rest[..length]).map_err(|error| ClientError::Strange(error.to_string()));
        self.read += length + 1;
        Some(event)
    }
}

impl Iterator for Events<'_> {
    type Item = Result<Event, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(line) = self.line() {
                return Some(line);
            }
            self.buffer.drain(..self.read);
            self.read = 0;
            if self.buffer.len() > ANSWER_MAX {
                return Some(Err(ClientError::Strange("a line without an end".to_owned())));
            }
            match self.client.runtime.block_on(self.body.frame())? {
                Ok(frame) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Err(error) => return Some(Err(lost(error))),
            }
        }
    }
}
