//! The paths of the API: each turns a request into one command to the event loop, and its answer into JSON.

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::time::timeout;

use super::BODY_MAX;
use super::command::{Command, Leave, LogRequest, MemoryCommand, Reply};
use super::feed::{Filter, feed};
use super::info::{CheckpointInfo, DistrictInfo, KeyInfo, Version};
use super::mailbox::Mailbox;
use super::name::Name;
use super::refusal::{Refusal, RefusalKind};
use super::rules::Wrong;
use super::snapshot::{Beginning, ExportRequest, ImportRequest, SnapshotInfo, SnapshotRequest, StartFrom, Tag};
use super::spec::Spec;
use super::stream::EventBody;

/// How long a peer may take for the body of its request.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// Most lines of one answer from the logs.
pub const LOG_LINES_MAX: usize = 100_000;

/// The body of a request to start districts.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartRequest {
    /// All of them, or none, are made so.
    pub districts: Vec<Spec>,
}

/// The body of a request to end the daemon.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShutdownRequest {
    /// What happens to the districts.
    pub districts: Leave,
}

/// The query of a request for logs, events or keys.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Selection {
    /// Names with commas between them; none: all.
    districts: String,
    /// Most lines.
    lines: Option<usize>,
    /// Whether the answer goes on with what happens from now on.
    follow: bool,
    /// Whether log lines are among the events.
    logs: bool,
}

type Answer<T> = Result<Json<T>, Refusal>;

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self.problem)).into_response()
    }
}

/// All paths.
pub(super) fn router(mailbox: Mailbox) -> Router {
    Router::new()
        .route("/v1/version", get(async || Json(Version::this())))
        .route("/v1/districts", get(list).post(start))
        .route("/v1/districts/{name}", get(one).delete(remove))
        .route("/v1/districts/{name}/start", post(start_existing))
        .route("/v1/districts/{name}/stop", post(stop))
        .route("/v1/districts/{name}/restart", post(restart))
        .route("/v1/districts/{name}/checkpoints", get(checkpoints).post(checkpoint))
        .route("/v1/districts/{name}/snapshots", get(snapshots_of).post(snapshot))
        .route("/v1/districts/{name}/snapshots/{tag}", axum::routing::delete(remove_snapshot))
        .route("/v1/districts/{name}/snapshots/{tag}/export", post(export))
        .route("/v1/districts/{name}/clone", post(clone))
        .route("/v1/snapshots", get(snapshots))
        .route("/v1/import", post(import))
        .route("/v1/logs", get(logs))
        .route("/v1/events", get(events))
        .route("/v1/keys", get(keys))
        .route("/v1/shutdown", post(shutdown))
        .fallback(async || Refusal::new(RefusalKind::NotFound, "no such path").remedy("see docs/api.md"))
        .method_not_allowed_fallback(async || {
            let refusal = Refusal::new(RefusalKind::Invalid, "this path has no such method").remedy("see docs/api.md");
            (StatusCode::METHOD_NOT_ALLOWED, Json(refusal.problem))
        })
        .layer(from_fn(bounded))
        .with_state(mailbox)
}

/// Lets a request in when all of its body is here.
async fn bounded(request: Request, next: Next) -> Result<Response, Refusal> {
    let (head, body) = request.into_parts();
    let bytes = timeout(BODY_TIMEOUT, to_bytes(body, BODY_MAX)).await.map_err(|_| {
        Refusal::new(RefusalKind::Invalid, format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs()))
    })?;
    let bytes = bytes.map_err(|_| {
        Refusal::new(RefusalKind::Invalid, format!("the body was cut off or has more than {BODY_MAX} bytes"))
    })?;
    Ok(next.run(Request::from_parts(head, Body::from(bytes))).await)
}

async fn ask<T>(mailbox: &Mailbox, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Refusal> {
    let (reply, answer) = Reply::new();
    mailbox.post(command(reply))?;
    answer.await.unwrap_or_else(|_| Err(Refusal::shutting_down()))
}

fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| {
        Refusal::new(RefusalKind::Invalid, format!("the body does not fit this path: {error}"))
            .remedy("see docs/api.md")
    })
}

fn selection(query: Result<Query<Selection>, QueryRejection>) -> Result<(Selection, Vec<Name>), Refusal> {
    let Query(selection) = query.map_err(|rejection| {
        Refusal::new(RefusalKind::Invalid, format!("the query does not fit this path: {}", rejection.body_text()))
            .remedy("see docs/api.md")
    })?;
    let names: Result<Vec<Name>, Wrong> =
        selection.districts.split(',').filter(|name| !name.is_empty()).map(Name::new).collect();
    Ok((selection, names?))
}

async fn list(State(mailbox): State<Mailbox>) -> Answer<Vec<DistrictInfo>> {
    Ok(Json(ask(&mailbox, Command::List).await?))
}

async fn one(State(mailbox): State<Mailbox>, Path(name): Path<String>) -> Answer<DistrictInfo> {
    let name = Name::new(&name)?;
    let all = ask(&mailbox, Command::List).await?;
    all.into_iter().find(|info| info.name == name).map(Json).ok_or_else(|| Refusal::no_district(&name))
}

async fn start(State(mailbox): State<Mailbox>, body: Bytes) -> Answer<Vec<DistrictInfo>> {
    let request: StartRequest = parse(&body)?;
    for (index, spec) in request.districts.iter().enumerate() {
        spec.check().map_err(|wrong| Wrong::new(format!("district `{}`: {}", spec.name, wrong.what), wrong.remedy))?;
        if request.districts[..index].iter().any(|other| other.name == spec.name) {
            return Err(Wrong::new(format!("district `{}` is there twice", spec.name), "leave one of them out").into());
        }
    }
    Ok(Json(ask(&mailbox, |reply| Command::Start(request.districts, reply)).await?))
}

/// What a request says about the memory to begin with; nothing, if it has no body.
fn beginning(body: &Bytes) -> Result<Beginning, Refusal> {
    if body.is_empty() { Ok(Beginning::Newest) } else { parse::<StartFrom>(body).map(|start| start.from) }
}

async fn start_existing(State(mailbox): State<Mailbox>, Path(name): Path<String>, body: Bytes) -> Answer<DistrictInfo> {
    let (name, from) = (Name::new(&name)?, beginning(&body)?);
    Ok(Json(ask(&mailbox, |reply| Command::StartExisting(name, from, reply)).await?))
}

async fn snapshot(State(mailbox): State<Mailbox>, Path(name): Path<String>, body: Bytes) -> Answer<SnapshotInfo> {
    let name = Name::new(&name)?;
    let request = if body.is_empty() { SnapshotRequest::default() } else { parse(&body)? };
    Ok(Json(ask(&mailbox, |reply| Command::Memory(name, MemoryCommand::Snapshot(request.tag, reply))).await?))
}

async fn snapshots(State(mailbox): State<Mailbox>) -> Answer<Vec<SnapshotInfo>> {
    Ok(Json(ask(&mailbox, Command::Snapshots).await?))
}

async fn snapshots_of(State(mailbox): State<Mailbox>, Path(name): Path<String>) -> Answer<Vec<SnapshotInfo>> {
    let name = Name::new(&name)?;
    Ok(Json(ask(&mailbox, |reply| Command::Memory(name, MemoryCommand::Snapshots(reply))).await?))
}

async fn remove_snapshot(State(mailbox): State<Mailbox>, Path((name, tag)): Path<(String, String)>) -> Answer<()> {
    let (name, tag) = (Name::new(&name)?, Tag::new(&tag)?);
    Ok(Json(ask(&mailbox, |reply| Command::Memory(name, MemoryCommand::RemoveSnapshot(tag, reply))).await?))
}

async fn clone(State(mailbox): State<Mailbox>, Path(name): Path<String>, body: Bytes) -> Answer<DistrictInfo> {
    let (name, request) = (Name::new(&name)?, parse(&body)?);
    Ok(Json(ask(&mailbox, |reply| Command::Memory(name, MemoryCommand::Clone(request, reply))).await?))
}

async fn export(
    State(mailbox): State<Mailbox>,
    Path((name, tag)): Path<(String, String)>,
    body: Bytes,
) -> Answer<SnapshotInfo> {
    let (name, tag) = (Name::new(&name)?, Tag::new(&tag)?);
    let ExportRequest { path } = parse(&body)?;
    absolute(&path)?;
    Ok(Json(ask(&mailbox, |reply| Command::Memory(name, MemoryCommand::Export(tag, path, reply))).await?))
}

async fn import(State(mailbox): State<Mailbox>, body: Bytes) -> Answer<DistrictInfo> {
    let request: ImportRequest = parse(&body)?;
    absolute(&request.path)?;
    Ok(Json(ask(&mailbox, |reply| Command::Import(request, reply)).await?))
}

fn absolute(path: &std::path::Path) -> Result<(), Wrong> {
    if path.is_absolute() {
        return Ok(());
    }
    let what = format!("path {} is not absolute", path.display());
    Err(Wrong::new(what, "the daemon has another working directory; send the whole path"))
}

async fn stop(State(mailbox): State<Mailbox>, Path(name): Path<String>) -> Answer<DistrictInfo> {
    let name = Name::new(&name)?;
    Ok(Json(ask(&mailbox, |reply| Command::Stop(name, reply)).await?))
}

async fn restart(State(mailbox): State<Mailbox>, Path(name): Path<String>, body: Bytes) -> Answer<DistrictInfo> {
    let (name, from) = (Name::new(&name)?, beginning(&body)?);
    Ok(Json(ask(&mailbox, |reply| Command::Restart(name, from, reply)).await?))
}

async fn checkpoint(State(mailbox): State<Mailbox>, Path(name): Path<String>) -> Answer<CheckpointInfo> {
    let name = Name::new(&name)?;
    Ok(Json(ask(&mailbox, |reply| Command::Memory(name, MemoryCommand::Checkpoint(reply))).await?))
}

async fn checkpoints(State(mailbox): State<Mailbox>, Path(name): Path<String>) -> Answer<Vec<CheckpointInfo>> {
    let name = Name::new(&name)?;
    Ok(Json(ask(&mailbox, |reply| Command::Memory(name, MemoryCommand::Checkpoints(reply))).await?))
}

async fn remove(State(mailbox): State<Mailbox>, Path(name): Path<String>) -> Answer<()> {
    let name = Name::new(&name)?;
    Ok(Json(ask(&mailbox, |reply| Command::Remove(name, reply)).await?))
}

async fn logs(
    State(mailbox): State<Mailbox>,
    query: Result<Query<Selection>, QueryRejection>,
) -> Result<Response, Refusal> {
    let (selection, districts) = selection(query)?;
    let lines = selection.lines.unwrap_or(LOG_LINES_MAX).min(LOG_LINES_MAX);
    let (follow, reader) = if selection.follow {
        let (feed, reader) = feed(Filter { districts: districts.clone(), logs: true, changes: false });
        (Some(feed), Some(reader))
    } else {
        (None, None)
    };
    let past = ask(&mailbox, |reply| Command::Logs(LogRequest { districts, lines, follow, reply })).await?;
    Ok(streamed(EventBody::new(past, reader)))
}

async fn events(
    State(mailbox): State<Mailbox>,
    query: Result<Query<Selection>, QueryRejection>,
) -> Result<Response, Refusal> {
    let (selection, districts) = selection(query)?;
    let (feed, reader) = feed(Filter { districts, logs: selection.logs, changes: true });
    ask(&mailbox, |reply| Command::Events(feed, reply)).await?;
    Ok(streamed(EventBody::new(Vec::new(), Some(reader))))
}

fn streamed(body: EventBody) -> Response {
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::new(body)).into_response()
}

async fn keys(State(mailbox): State<Mailbox>, query: Result<Query<Selection>, QueryRejection>) -> Answer<Vec<KeyInfo>> {
    let (_, mut names) = selection(query)?;
    if names.len() > 1 {
        return Err(Wrong::new("the keys of several districts were asked for", "name one, or none for all").into());
    }
    Ok(Json(ask(&mailbox, |reply| Command::Inspect(names.pop(), reply)).await?))
}

async fn shutdown(State(mailbox): State<Mailbox>, body: Bytes) -> Answer<()> {
    let request: ShutdownRequest = parse(&body)?;
    Ok(Json(ask(&mailbox, |reply| Command::Shutdown(request.districts, reply)).await?))
}
