//! The command, run as its users run it.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::fixtures;

pub fn retto(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_retto"));
    // The tests leave the user's own folders alone.
    command.args(args).stdin(Stdio::null()).env("RETTO_CACHE_DIR", "");
    command
}

pub fn run(args: &[&str]) -> Output {
    retto(args).output().unwrap()
}

pub fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn json(args: &[&str]) -> Value {
    serde_json::from_str(&stdout(&run(args))).unwrap()
}

/// Exit code 1, nothing on stdout, and a last line `error: ...` with these words.
pub fn fails(args: &[&str], words: &[&str]) {
    let output = run(args);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{args:?}: {text}");
    assert!(output.stdout.is_empty());
    let errors: Vec<&str> = text.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{args:?}: {text}");
    assert!(words.iter().all(|word| errors[0].contains(word)), "{args:?}: '{}' should say {words:?}", errors[0]);
}

pub fn fixture(name: &str) -> String {
    // With the system's own separators, as it is told again.
    std::path::absolute(fixtures().join(name)).unwrap().to_string_lossy().into_owned()
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
