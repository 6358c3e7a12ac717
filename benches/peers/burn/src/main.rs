//! burn as a peer of the benchmark: answers requests, one JSON line each, with timings. ../README.md has the protocol;
//! this peer has its `gemm`, `memory` and `quit`, and, as it has neither a tokenizer nor a checkpoint's weights:
//!
//! | task | fields (default) | answer |
//! | --- | --- | --- |
//! | `fill` | `tokens`, `seconds`, `top_k` (5) | `seconds`, `tokens`, `answers` as ids and scores |
//! | `adapt` | `batch_size` (32), `length`, `steps` | of each step as there |
//!
//! `fill` goes from ids to the best ids, and computes the mask's logits alone; `adapt` those of the masked tokens alone,
//! 15% of random ids. While burn warms up it compiles shaders and times many to choose from: `first_seconds` is the
//! first call's or step's, and `warm_up_seconds` those of the calls between it and the ones that count. On a software
//! adapter it takes minutes; CUBECL_AUTOTUNE_LEVEL=minimal has fewer to choose from.
//!
//!     burn-peer --model DIR

mod measure;
mod model;
mod tasks;

use std::io::{BufRead, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;

use serde::Deserialize;
use serde_json::{Value, json};
use tasks::Peer;

#[derive(Deserialize)]
#[serde(tag = "task", rename_all = "lowercase", deny_unknown_fields)]
enum Request {
    Gemm { m: usize, n: usize, k: usize, seconds: f64, dtype: Option<String>, calls: Option<usize> },
    Fill { tokens: usize, seconds: f64, top_k: Option<usize> },
    Adapt { batch_size: Option<usize>, length: usize, steps: usize },
    Memory {},
    Quit {},
}

fn answer(peer: &mut Peer, request: Request) -> Result<Value, String> {
    match request {
        Request::Gemm { dtype: Some(dtype), .. } if dtype != "f32" => Err(format!("dtype {dtype}: not f32")),
        Request::Gemm { m, n, k, seconds, calls, .. } => peer.gemm([m, n, k], seconds, calls.unwrap_or(1)),
        Request::Fill { tokens, seconds, top_k } => peer.fill(tokens, top_k.unwrap_or(5), seconds),
        Request::Adapt { batch_size, length, steps } => peer.adapt(batch_size.unwrap_or(32), length, steps),
        Request::Memory {} => Ok(peer.memory()),
        Request::Quit {} => unreachable!("ends the loop"),
    }
}

/// burn panics where others return an error; the worker has to go on.
fn caught<T>(run: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        Err(text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("panicked").into())
    })
}

fn say(line: Value) {
    let mut out = std::io::stdout().lock();
    // Whoever asked is gone.
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let folder = match arguments.as_slice() {
        [flag, folder] if flag == "--model" => Path::new(folder),
        _ => {
            eprintln!("usage: burn-peer --model DIR");
            return ExitCode::from(2);
        }
    };
    let mut peer = match caught(|| Peer::new(folder)) {
        Ok(peer) => peer,
        Err(error) => {
            say(json!({ "ready": false, "error": error }));
            return ExitCode::FAILURE;
        }
    };
    let mut ready = json!({ "ready": true });
    ready.as_object_mut().unwrap().extend(peer.describe().as_object().unwrap().clone());
    say(ready);
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        if line.trim().is_empty() {
            continue;
        }
        let reply = match serde_json::from_str(&line) {
            Ok(Request::Quit {}) => break,
            Ok(request) => caught(|| answer(&mut peer, request)),
            Err(error) => Err(error.to_string()),
        };
        say(reply.unwrap_or_else(|error| json!({ "error": error })));
    }
    ExitCode::SUCCESS
}
