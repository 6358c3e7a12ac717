//! From nothing to the first answer.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::measures::{Options, Shape, text_of};
use crate::peer;
use crate::report::{Cell, Sample, Table};
use crate::worker::peak_host_bytes;

/// Seconds from the start of a process to its first answer, and the memory that it takes.
pub fn cold(shape: &Shape, options: &Options) -> Vec<Table> {
    let text = text_of(12);
    let retto = |shader_cache: &Path| {
        let mut command = peer::under(&options.runner, env!("CARGO_BIN_EXE_retto").as_ref());
        command.args(["fill", "--json", "--model"]).arg(&shape.folder).arg(&text);
        // Drivers' own caches of compiled shaders, and Retto's.
        for cache in ["MESA_SHADER_CACHE_DIR", "__GL_SHADER_DISK_CACHE_PATH", "CUDA_CACHE_PATH", "RETTO_CACHE_DIR"] {
            command.env(cache, shader_cache);
        }
        command
    };
    let python = |more: &[&str]| {
        let mut command = peer::python_command("benches/peers/cold.py", options.on_cpu)?;
        command.arg("--model").arg(&shape.folder).args(["--text", &text]).args(more);
        Some(command)
    };
    let columns = ["retto, caches cold", "retto, caches warm", "transformers, pipeline", "transformers, direct"];
    let columns = columns.map(String::from);
    let title = |what: &str| format!("{what}, {}", shape.name);
    let times = Table::new(title("from process start to the first answer"), "s", &columns);
    let memory = Table::new(title("the host's memory until then, peak"), "MiB", &columns);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut all: Vec<Result<Vec<Start>, String>> = vec![Ok(Vec::new()); columns.len()];
    for round in 0..options.rounds {
        let fresh = folder.path().join(format!("round-{round}"));
        let commands = [
            Some(retto(&fresh)),
            // What the one before left.
            Some(retto(&fresh)),
            python(&[]),
            python(&["--direct"]),
        ];
        for (command, starts) in commands.into_iter().zip(&mut all) {
            let measured = command.ok_or_else(|| peer::NO_PYTHON.to_owned()).and_then(timed);
            match (starts.as_mut(), measured) {
                (Ok(known), Ok(start)) => known.push(start),
                (_, Err(reason)) => *starts = Err(reason),
                _ => {}
            }
        }
    }
    let cells = |of: fn(&Start) -> Option<f64>| {
        let cell = |starts: &Result<Vec<Start>, String>| {
            let values: Option<Vec<f64>> = starts.as_ref().map_err(Clone::clone)?.iter().map(of).collect();
            values.map(|values| Cell::new(Sample::new(values))).ok_or_else(|| "the system does not say".to_owned())
        };
        all.iter().map(cell).collect()
    };
    let retto = json!({ "name": options.retto_is });
    let said = |starts: &Result<Vec<Start>, String>| starts.as_ref().ok().and_then(|all| all.last()?.said.clone());
    let programs: Vec<Value> = vec![retto.clone(), retto, said(&all[2]).into(), said(&all[3]).into()];
    let (mut times, mut memory) = (times.with_programs(&programs), memory.with_programs(&programs));
    times.row("12 tokens", cells(|start| Some(start.seconds)));
    memory.row("12 tokens", cells(|start| start.peak_host_bytes.map(|bytes| bytes as f64 / f64::from(1 << 20))));
    vec![times, memory]
}

/// A process from its beginning to its end.
#[derive(Clone)]
pub struct Start {
    pub seconds: f64,
    /// As often as it was asked for, until the end.
    peak_host_bytes: Option<u64>,
    /// What it is, where it says so in JSON.
    said: Option<Value>,
}

/// Between two looks at a process's memory.
const LOOK: Duration = Duration::from_millis(2);

pub fn timed(mut command: Command) -> Result<Start, String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let began = Instant::now();
    let child = command.spawn().map_err(|error| error.to_string())?;
    let process = child.id().to_string();
    let is_over = AtomicBool::new(false);
    let (output, seconds, peak_host_bytes) = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut peak = None;
            while !is_over.load(Ordering::Relaxed) {
                peak = peak.max(peak_host_bytes(&process));
                std::thread::sleep(LOOK);
            }
            peak
        });
        let output = child.wait_with_output();
        let seconds = began.elapsed().as_secs_f64();
        is_over.store(true, Ordering::Relaxed);
        (output, seconds, watch.join().unwrap_or_default())
    });
    let output = output.map_err(|error| error.to_string())?;
    match output.status.success() {
        true => {
            let said: Option<Value> = serde_json::from_slice(&output.stdout).ok();
            let said = said.and_then(|said| said.get("name").map(|name| json!({ "name": name })));
            Ok(Start { seconds, peak_host_bytes, said })
        }
        false => Err(String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or("it failed").to_owned()),
    }
}
