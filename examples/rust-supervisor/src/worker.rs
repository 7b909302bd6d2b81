//! A worker process: how it is started, spoken with and ended. docs/agents.md of hfs-providers has the protocol.

use crate::json::Json;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of a line of the protocol, its LF included.
const LONGEST_LINE: u64 = 4 * 1024 * 1024;
const TO_ANSWER: Duration = Duration::from_secs(60);
const TO_END: Duration = Duration::from_secs(10);

/// What a worker says.
#[derive(Debug)]
pub enum Said {
    /// A request was answered, with its result or else with an error.
    Answer {
        id: u32,
        outcome: Result<Json, String>,
    },
    Notification {
        method: String,
        params: Json,
    },
    /// It says nothing any more.
    End,
}

pub struct Worker {
    process: Child,
    /// Until it is closed, which tells a worker to end.
    input: Option<ChildStdin>,
    said: Receiver<Said>,
    last_id: u32,
}

impl Worker {
    /// Starts a worker. Its log goes to our standard error.
    pub fn start(command: &[String]) -> io::Result<Worker> {
        let mut process =
            Command::new(&command[0]).args(&command[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = process.stdin.take();
        let output = process.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let (sender, said) = channel();
        thread::spawn(move || listen(output, &sender));
        Ok(Worker { process, input, said, last_id: 0 })
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Sends a request; the id that its answer will have. A worker that is gone shows by its `End`.
    pub fn send(&mut self, method: &str, params: Json) -> u32 {
        self.last_id += 1;
        let request = Json::object([
            ("jsonrpc", Json::from("2.0")),
            ("id", Json::from(self.last_id)),
            ("method", Json::from(method)),
            ("params", params),
        ]);
        if let Some(input) = &mut self.input {
            let _ = input.write_all(format!("{request}\n").as_bytes()).and_then(|()| input.flush());
        }
        self.last_id
    }

    /// Waits for the next thing that it says; None where it has said nothing for so long.
    pub fn next(&self, patience: Duration) -> Option<Said> {
        match self.said.recv_timeout(patience) {
            Ok(said) => Some(said),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Said::End),
        }
    }

    /// Sends a request and waits for its answer, where nothing else is pending.
    pub fn call(&mut self, method: &str, params: Json) -> Result<Json, String> {
        let asked = self.send(method, params);
        let deadline = Instant::now() + TO_ANSWER;
        loop {
            match self.next(deadline.saturating_duration_since(Instant::now())) {
                Some(Said::Answer { id, outcome }) if id == asked => return outcome,
                Some(Said::End) => return Err("the worker ended".to_string()),
                Some(_) => {}
                None => return Err(format!("no answer within {} s", TO_ANSWER.as_secs())),
            }
        }
    }

    /// Asks it to end, waits, and ends it where it does not.
    pub fn stop(mut self) {
        self.send("shutdown", Json::Object(vec![]));
        self.input = None;
        let deadline = Instant::now() + TO_END;
        while let Some(said) = self.next(deadline.saturating_duration_since(Instant::now())) {
            if matches!(said, Said::End) {
                break;
            }
        }
        while matches!(self.process.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// No worker outlives its `Worker`.
impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn listen(output: impl Read, sender: &Sender<Said>) {
    let mut output = BufReader::new(output);
    loop {
        let mut line = Vec::new();
        match output.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line) {
            // A line without its end was cut off, be it by the worker's death or by its length.
            Ok(_) if line.ends_with(b"\n") => {
                let message = std::str::from_utf8(&line).ok().and_then(|text| Json::parse(text).ok());
                match message.and_then(understood) {
                    Some(said) => {
                        if sender.send(said).is_err() {
                            return;
                        }
                    }
                    None => eprintln!("a line that is not a message was ignored"),
                }
            }
            _ => {
                let _ = sender.send(Said::End);
                return;
            }
        }
    }
}

fn understood(message: Json) -> Option<Said> {
    if let Some(method) = message.get("method").as_str() {
        return Some(Said::Notification { method: method.to_string(), params: message.get("params").clone() });
    }
    let id = message.get("id").as_f64()? as u32;
    let outcome = match message.get("error") {
        Json::Null => Ok(message.get("result").clone()),
        error => Err(error.get("message").as_str().unwrap_or("an error without a message").to_string()),
    };
    Some(Said::Answer { id, outcome })
}
