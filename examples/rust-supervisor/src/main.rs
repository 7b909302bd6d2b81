//! Supervises a worker of hfs-providers: three items at once, each answered once, whatever becomes of the worker.
//!
//! `rust-supervisor [COMMAND...]`, by default `hfs-providers agents worker --role executor`.
//! Exit code: 0 all items succeeded, 1 some failed, 2 the worker could not be used, 3 its agent is unavailable.

mod json;
mod worker;

use json::Json;
use std::collections::HashMap;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;
use worker::{Said, Worker};

const PROTOCOL_VERSION: u32 = 1;
/// A worker says something every 30 s at least: its heartbeat.
const PATIENCE: Duration = Duration::from_secs(90);

struct Item {
    id: &'static str,
    description: &'static str,
    /// Whether it may be done a second time where nobody knows if it was done.
    idempotent: bool,
    tries: u32,
}

enum Failure {
    Unusable(String),
    Unavailable(String),
}

fn main() -> ExitCode {
    let mut command: Vec<String> = std::env::args().skip(1).collect();
    if command.is_empty() {
        command = ["hfs-providers", "agents", "worker", "--role", "executor"].map(String::from).into();
    }
    let item = |id, description, idempotent| Item { id, description, idempotent, tries: 0 };
    let items = vec![
        item("haiku", "Write a haiku about a worker that is watched.", true),
        item("summary", "Explain in two sentences what a supervisor does.", true),
        item("letter", "Write a letter to a customer. It is sent at once, so write it once.", false),
    ];
    match supervise(&command, items) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failed) => {
            say(&format!("{failed} of 3 items failed"));
            ExitCode::from(1)
        }
        Err(Failure::Unusable(reason)) => {
            eprintln!("Error: {reason}");
            ExitCode::from(2)
        }
        Err(Failure::Unavailable(reason)) => {
            eprintln!("Error: the agent is unavailable: {reason}");
            ExitCode::from(3)
        }
    }
}

/// Prints a line; nobody has to read it.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Has the items done by one worker after the other; how many failed.
fn supervise(command: &[String], mut items: Vec<Item>) -> Result<usize, Failure> {
    let mut failed = 0;
    loop {
        let (mut worker, session) = ready_worker(command).inspect_err(|_| _ = give_up(&items, "there is no worker"))?;
        let (left, failures) = delegate(&mut worker, &session, items);
        failed += failures;
        if left.is_empty() {
            worker.stop();
            return Ok(failed);
        }
        // Dropped, and so killed, where it only fell silent.
        drop(worker);
        let (again, lost): (Vec<Item>, Vec<Item>) =
            left.into_iter().partition(|item| item.idempotent && item.tries < 2);
        failed += give_up(&lost, "the worker died while it had it");
        if again.is_empty() {
            return Ok(failed);
        }
        items = again;
    }
}

/// Says that items failed; how many.
fn give_up(items: &[Item], reason: &str) -> usize {
    for item in items {
        say(&format!("[{}] failed: {reason}", item.id));
    }
    items.len()
}

/// A worker with a session.
fn ready_worker(command: &[String]) -> Result<(Worker, String), Failure> {
    let unusable = |what: &str, reason: String| Failure::Unusable(format!("{what}: {reason}"));
    let mut worker = Worker::start(command).map_err(|error| unusable(&command[0], error.to_string()))?;
    let client = Json::object([("name", Json::from("rust-supervisor")), ("version", Json::from("0.1.0"))]);
    let versions = Json::Array(vec![Json::from(PROTOCOL_VERSION)]);
    let hello = worker
        .call("initialize", Json::object([("protocol_versions", versions), ("client", client)]))
        .map_err(|reason| unusable("initialize", reason))?;
    say(&format!(
        "worker {}: {} of {} {}",
        worker.pid(),
        text(&hello, "role"),
        text(hello.get("server"), "name"),
        text(hello.get("server"), "version")
    ));
    let started = worker
        .call("start_session", Json::object([("config", Json::Object(vec![]))]))
        .map_err(|reason| unusable("start_session", reason))?;
    match started.get("session_id").as_str() {
        Some(session) => Ok((worker, session.to_string())),
        None => Err(Failure::Unavailable(text(started.get("state"), "reason").to_string())),
    }
}

/// Gives a worker all items at once, and prints what comes of them; the items that it did not answer, and how many failed.
fn delegate(worker: &mut Worker, session: &str, items: Vec<Item>) -> (Vec<Item>, usize) {
    let mut pending: HashMap<u32, Item> = HashMap::new();
    for mut item in items {
        item.tries += 1;
        let work = Json::object([
            ("id", Json::from(item.id)),
            ("description", Json::from(item.description)),
            ("phase", Json::from("plan_to_artifacts")),
            ("idempotent", Json::from(item.idempotent)),
        ]);
        let params = Json::object([("session_id", Json::from(session)), ("item", work)]);
        pending.insert(worker.send("send_work", params), item);
    }
    let mut failed = 0;
    while !pending.is_empty() {
        match worker.next(PATIENCE) {
            Some(Said::Answer { id, outcome }) => {
                if let Some(item) = pending.remove(&id) {
                    failed += usize::from(!report(item.id, &outcome));
                }
            }
            Some(Said::Notification { method, params }) if method == "progress" => {
                say(&format!(
                    "[{}] {}: {}",
                    text(&params, "item_id"),
                    text(&params, "stage"),
                    text(&params, "message")
                ));
            }
            Some(Said::Notification { .. }) => {}
            Some(Said::End) => {
                say(&format!("worker {} died with {} items", worker.pid(), pending.len()));
                break;
            }
            None => {
                say(&format!("worker {} fell silent with {} items", worker.pid(), pending.len()));
                break;
            }
        }
    }
    let mut left: Vec<Item> = pending.into_values().collect();
    left.sort_by_key(|item| item.id);
    (left, failed)
}

/// Prints the answer to an item; whether it is a success.
fn report(item: &str, outcome: &Result<Json, String>) -> bool {
    let error = match outcome {
        Ok(result) if result.get("success") == &Json::Bool(true) => {
            let by = result.get("served_by");
            let seconds = result.get("duration").as_f64().unwrap_or(0.0);
            say(&format!("[{item}] done in {seconds:.2} s, served by {}/{}", text(by, "provider"), text(by, "model")));
            say(&format!("[{item}] {}", result.get("data")));
            return true;
        }
        Ok(result) => text(result, "error"),
        Err(reason) => reason,
    };
    say(&format!("[{item}] failed: {error}"));
    false
}

fn text<'json>(value: &'json Json, name: &str) -> &'json str {
    value.get(name).as_str().unwrap_or("?")
}
