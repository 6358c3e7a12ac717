//! Repeated timings, peak memory, and numbers that only have to look random.

use std::time::Instant;

use burn::prelude::Device;
use serde_json::{Value, json};

/// With the first call, three runs of warm-up.
const FURTHER_WARM_UP_RUNS: usize = 2;
const LEAST_RUNS: usize = 5;

/// Times `run`, `calls` in a row at a time, until `seconds` have passed. The first call, from nothing, and the rest of
/// the warm-up are apart: burn compiles and tunes in all of them.
///
/// A result is held until the device is done: burn queues operations, and drops what nothing will read.
pub fn repeat<T>(device: &Device, seconds: f64, calls: usize, mut run: impl FnMut() -> T) -> Result<Value, String> {
    if calls == 0 {
        return Err("0 calls: nothing to time".into());
    }
    let mut timed = |calls: usize| {
        let start = Instant::now();
        let results: Vec<T> = (0..calls).map(|_| run()).collect();
        sync(device)?;
        let elapsed = start.elapsed().as_secs_f64();
        drop(results);
        Ok::<f64, String>(elapsed / calls as f64)
    };
    let first = timed(1)?;
    let warm_up = (0..FURTHER_WARM_UP_RUNS).map(|_| timed(calls)).collect::<Result<Vec<f64>, String>>()?;
    let begin = Instant::now();
    let mut timings = Vec::new();
    while timings.len() < LEAST_RUNS || begin.elapsed().as_secs_f64() < seconds {
        timings.push(timed(calls)?);
    }
    Ok(json!({ "seconds": timings, "first_seconds": first, "warm_up_seconds": warm_up }))
}

pub fn sync(device: &Device) -> Result<(), String> {
    device.sync().map_err(|error| format!("{error:?}"))
}

/// The process's, from its start; null where there is no /proc.
pub fn peak_host_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// SplitMix64: the same ids in every process, from no crate.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end as u64) as usize
    }
}
