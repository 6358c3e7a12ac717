//! A process that answers requests, one JSON line each. Retto's own worker is one like the others, so that memory and
//! interference are the same for all.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use serde_json::{Value, json};

/// How long an answer may take; a process that takes longer is ended, and absent from then on. burn's first step of a training may take
/// all evening.
pub static PATIENCE: OnceLock<Duration> = OnceLock::new();

pub struct Peer {
    /// What the tables call it.
    pub label: String,
    state: State,
}

enum State {
    Running {
        child: Child,
        stdin: ChildStdin,
        answers: Receiver<Result<Value, String>>,
        about: Value,
    },
    /// Why it is not here: told in the tables, never left out in silence.
    Absent(String),
}

impl Peer {
    pub fn start(label: &str, mut command: Command) -> Self {
        let state = Self::spawn(&mut command).unwrap_or_else(State::Absent);
        if let State::Absent(reason) = &state {
            eprintln!("{label}: absent: {reason}");
        }
        Self { label: label.into(), state }
    }

    pub fn absent(label: &str, reason: &str) -> Self {
        Self { label: label.into(), state: State::Absent(reason.into()) }
    }

    fn spawn(command: &mut Command) -> Result<State, String> {
        let program = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|error| format!("{program}: {error}"))?;
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            let mut stdout = BufReader::new(stdout);
            loop {
                let answer = read(&mut stdout);
                let ends = answer.is_err();
                if sender.send(answer).is_err() || ends {
                    break;
                }
            }
        });
        let about = within_patience(&answers, &mut child)?;
        if about["ready"] != true {
            return Err(about["error"].as_str().unwrap_or("it did not start").to_owned());
        }
        Ok(State::Running { child, stdin, answers, about })
    }

    /// Whether it computes on a GPU, where one call alone is mostly the wait for it.
    pub fn is_on_gpu(&self) -> bool {
        let about = self.about();
        about["device"].as_str().is_some_and(|device| !device.eq_ignore_ascii_case("cpu"))
    }

    /// Itself, unless it computes on another GPU than Retto's adapter; this variable chooses its own.
    pub fn on(self, adapter: &str, variable: &str) -> Self {
        match self.about()["adapter"].as_str() {
            Some(other) if other != adapter => {
                Self::absent(&self.label, &format!("it takes {other}, not {adapter}: {variable} chooses"))
            }
            _ => self,
        }
    }

    /// Why there is nothing in a cell of its column: that it is not there, or this.
    pub fn no_figure(&self, reason: &str) -> String {
        match &self.state {
            State::Running { .. } => reason.into(),
            State::Absent(why) => format!("absent: {why}"),
        }
    }

    /// What it says of itself.
    pub fn about(&self) -> Value {
        match &self.state {
            State::Running { about, .. } => about.clone(),
            State::Absent(reason) => json!({ "absent": reason }),
        }
    }

    /// The answer, or why there is none.
    pub fn ask(&mut self, request: &Value) -> Result<Value, String> {
        let State::Running { child, stdin, answers, .. } = &mut self.state else {
            let State::Absent(reason) = &self.state else { unreachable!() };
            return Err(format!("absent: {reason}"));
        };
        let asked = writeln!(stdin, "{request}").and_then(|()| stdin.flush()).map_err(|error| error.to_string());
        let answer = asked.and_then(|()| within_patience(answers, child));
        match answer {
            Ok(answer) if answer.get("error").is_some() => Err(answer["error"].as_str().unwrap_or("failed").into()),
            Ok(answer) => Ok(answer),
            Err(reason) => {
                self.state = State::Absent(format!("it ended: {reason}"));
                Err(reason)
            }
        }
    }
}

fn within_patience(answers: &Receiver<Result<Value, String>>, child: &mut Child) -> Result<Value, String> {
    let patience = PATIENCE.get().copied().unwrap_or(Duration::MAX);
    match answers.recv_timeout(patience) {
        Ok(answer) => answer,
        Err(RecvTimeoutError::Disconnected) => Err("it said no more".into()),
        Err(RecvTimeoutError::Timeout) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(format!("no answer within {} s", patience.as_secs()))
        }
    }
}

fn read(from: &mut impl BufRead) -> Result<Value, String> {
    let mut line = String::new();
    match from.read_line(&mut line) {
        Ok(0) => Err("it said no more".into()),
        Ok(_) => serde_json::from_str(&line).map_err(|error| format!("{error}: {line}")),
        Err(error) => Err(error.to_string()),
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let State::Running { child, stdin, .. } = &mut self.state {
            let _ = writeln!(stdin, "{}", json!({ "task": "quit" }));
            let _ = child.wait();
        }
    }
}

/// Retto's worker, in this program.
pub fn retto(model: &Path, runner: &[String]) -> Peer {
    retto_in("float32", model, runner)
}

/// The same with weights of another type.
pub fn retto_in(dtype: &str, model: &Path, runner: &[String]) -> Peer {
    let program = std::env::current_exe().expect("this program's own path");
    let mut command = under(runner, program.as_os_str());
    command.arg("worker").arg(model).arg(dtype);
    let label = if dtype == "float32" { "retto".to_owned() } else { format!("retto, {dtype}") };
    Peer::start(&label, command)
}

/// A program of Retto's, by way of another that chooses the driver.
pub fn under(runner: &[String], program: &OsStr) -> Command {
    let Some((first, rest)) = runner.split_first() else { return Command::new(program) };
    let mut command = Command::new(first);
    command.args(rest).arg(program);
    command
}

/// A worker of benches/peers, in the environment that scripts/bench-peers.sh makes; without GPUs where Retto has none.
pub fn python(label: &str, model: &Path, more: &[&str], on_cpu: bool) -> Peer {
    let Some(mut command) = python_command("benches/peers/worker.py", on_cpu) else {
        return Peer::absent(label, NO_PYTHON);
    };
    command.args(more).arg("--model").arg(model);
    Peer::start(label, command)
}

pub const NO_PYTHON: &str = "no Python environment: scripts/bench-peers.sh makes it";

pub fn python_command(script: &str, on_cpu: bool) -> Option<Command> {
    let path = Path::new("target/bench-venv/bin/python");
    path.exists().then(|| {
        let mut command = Command::new(path);
        command.arg(script);
        if on_cpu {
            command.env("CUDA_VISIBLE_DEVICES", "");
        }
        command
    })
}

/// burn's worker, where scripts/bench-peers.sh built it, if it takes the adapter that Retto is measured on.
pub fn burn(model: &Path, runner: &[String], adapter: &str) -> Peer {
    let program = Path::new("target/burn/release/burn-peer");
    if !program.exists() {
        return Peer::absent("burn", "not built: scripts/bench-peers.sh --burn does it");
    }
    let mut command = under(runner, program.as_os_str());
    command.arg("--model").arg(model);
    Peer::start("burn", command).on(adapter, "CUBECL_WGPU_DEFAULT_DEVICE")
}
