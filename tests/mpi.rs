//! Processes that MPI has started train together as one does. They share the one adapter of the tests.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::command::{retto, run, stdout, text};
use common::{fresh_model, gpu};
use retto::Model;

/// The command as so many processes, each on the adapter of the tests.
fn mpirun(ranks: usize, args: &[&str]) -> Command {
    let single = retto(args);
    let mut command = Command::new("mpirun");
    command.args(["-n", &ranks.to_string(), "--oversubscribe"]).arg(single.get_program()).args(single.get_args());
    command.stdin(Stdio::null()).env("RETTO_CACHE_DIR", "").env("RETTO_DEVICE", gpu().adapter().index.to_string());
    // In a container everyone is root, and there is no other machine to be reached.
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    command.env("OMPI_MCA_btl", "self,vader").env("OMPI_MCA_btl_vader_single_copy_mechanism", "none");
    command
}

fn output(command: &mut Command) -> Output {
    command.output().expect("these tests need mpirun: install openmpi-bin, or build without the feature mpi")
}

struct Room {
    folder: tempfile::TempDir,
}

impl Room {
    fn new() -> Self {
        let room = Self { folder: tempfile::tempdir().unwrap() };
        fresh_model().save(room.path("base")).unwrap();
        let line = |i: usize| format!("{} the rain {}\n", ["you", "and", "the"][i % 3], "and you ".repeat(1 + i % 4));
        // Seven in a step: the last step of an epoch has two, fewer than four processes.
        std::fs::write(room.path("songs.txt"), (0..23).map(line).collect::<String>()).unwrap();
        room
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn adapt(&self, output: &str, more: &[&str]) -> Vec<String> {
        let (base, songs, output) = (self.path("base"), self.path("songs.txt"), self.path(output));
        let args = ["adapt", "--model", text(&base), "--train", text(&songs), "--validation", text(&songs)];
        let steps = ["--output", text(&output), "--learning-rate", "2e-3", "--logging-steps", "1"];
        let sizes = ["--per-device-train-batch-size", "7", "--num-train-epochs", "3"];
        [&args[..], &steps, &sizes, more].concat().into_iter().map(str::to_owned).collect()
    }

    fn figures(&self, output: &str, name: &str) -> Vec<f64> {
        let log = std::fs::read_to_string(self.path(output).join("metrics.jsonl")).unwrap();
        let entries = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        entries.filter_map(|entry| entry[name].as_f64()).collect()
    }

    /// The runs in these two folders had the same losses, and ended with the same weights, but for rounding.
    fn assert_alike(&self, one: &str, other: &str) {
        for name in ["loss", "eval_loss"] {
            let (one, other) = (self.figures(one, name), self.figures(other, name));
            assert!(!one.is_empty() && one.len() == other.len(), "{name}: {one:?} {other:?}");
            assert!(one.iter().zip(&other).all(|(a, b)| (a - b).abs() <= 1e-5 * a), "{name}: {one:?} {other:?}");
        }
        let open = |name: &str| Model::open(gpu(), self.path(name)).unwrap();
        let (one, other) = (open(one), open(other));
        for (key, _) in one.parameter_shapes().iter().filter(|(key, _)| !key.ends_with("key.bias")) {
            let pairs = one.parameter(key).unwrap().into_iter().zip(other.parameter(key).unwrap());
            let far = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, common::worse);
            assert!(far < 2e-4, "{key} differs by {far}");
        }
    }
}

fn strs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

#[test]
fn two_and_four_processes_make_the_steps_of_one() {
    let room = Room::new();
    stdout(&run(&strs(&room.adapt("alone", &[]))));
    for ranks in [2, 4] {
        let name = format!("of-{ranks}");
        let output = output(&mut mpirun(ranks, &strs(&room.adapt(&name, &[]))));
        let printed = stdout(&output);
        assert_eq!(printed.matches("12 steps").count(), 1, "one process tells: {printed}");
        let notes = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(notes.contains(&format!("{ranks} processes")) && notes.contains("between devices"), "{notes}");
        room.assert_alike(&name, "alone");
    }
}

/// Threads of one process and processes of MPI are summed in the same order: the same bits, in f32 and in 16 bits.
#[test]
fn two_processes_make_the_very_steps_of_two_threads() {
    let room = Room::new();
    let index = gpu().adapter().index.to_string();
    let pair = format!("{index},{index}");
    for hook in ["no", "fp16", "bf16"] {
        let (threads, processes) = (format!("threads-{hook}"), format!("processes-{hook}"));
        let hook = ["--ddp-comm-hook", hook];
        stdout(&run(&strs(&room.adapt(&threads, &[&hook[..], &["--devices", &pair]].concat()))));
        stdout(&output(&mut mpirun(2, &strs(&room.adapt(&processes, &hook)))));
        assert_eq!(room.figures(&threads, "loss"), room.figures(&processes, "loss"));
    }
}

#[test]
fn low_rank_factors_travel_alone_and_come_to_the_same() {
    let room = Room::new();
    let lora = ["--lora-r", "2", "--gradient-accumulation-steps", "2"];
    stdout(&run(&strs(&room.adapt("alone", &lora))));
    stdout(&output(&mut mpirun(2, &strs(&room.adapt("both", &lora)))));
    for name in ["alone", "both"] {
        let (base, adapter, merged) = (room.path("base"), room.path(name), room.path(&format!("{name}-merged")));
        stdout(&run(&["merge", "--model", text(&base), "--adapter", text(&adapter), "--output", text(&merged)]));
        std::fs::copy(adapter.join("metrics.jsonl"), merged.join("metrics.jsonl")).unwrap();
    }
    room.assert_alike("both-merged", "alone-merged");
}

/// One process of two is killed: the other ends, the checkpoint is whole, and three go on from it.
#[cfg(target_os = "linux")]
#[test]
fn a_process_that_dies_ends_the_run_which_others_take_up() {
    let room = Room::new();
    let long = ["--num-train-epochs", "40", "--save-steps", "3"];
    let args = |output: &str, more: &[&str]| {
        let mut args = room.adapt(output, more);
        // Given twice is an error, so the epochs are put in their place.
        let at = args.iter().position(|arg| arg == "--num-train-epochs").unwrap();
        args.splice(at..at + 2, []);
        [args, long.iter().map(|&arg| arg.to_owned()).collect()].concat()
    };
    stdout(&run(&strs(&args("whole", &[]))));
    let cut = args("cut", &[]);
    let mut command = mpirun(2, &strs(&cut));
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    while !room.path("cut").join("checkpoint-6").is_dir() {
        assert!(
            began.elapsed() < Duration::from_secs(180) && child.try_wait().unwrap().is_none(),
            "no checkpoint came"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    let victim = children(child.id()).pop().expect("mpirun has started processes");
    assert!(Command::new("kill").args(["-9", &victim.to_string()]).status().unwrap().success());
    let began = Instant::now();
    assert!(!child.wait().unwrap().success());
    assert!(began.elapsed() < Duration::from_secs(60), "the others did not wait");
    stdout(&output(&mut mpirun(3, &strs(&args("cut", &["--resume"])))));
    room.assert_alike("cut", "whole");
}

/// The processes that this one has started.
#[cfg(target_os = "linux")]
fn children(of: u32) -> Vec<u32> {
    let list = std::fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|id| id.parse().ok()).collect()
}

#[test]
fn what_one_process_alone_meets_with_ends_all_with_one_message() {
    let room = Room::new();
    let songs = room.path("songs.txt");
    let own = room.path("own");
    // The same numbers, of the same norm, but for two that have changed places.
    let (base, other) = (room.path("base"), room.path("other"));
    std::fs::create_dir(&other).unwrap();
    for file in std::fs::read_dir(&base).unwrap().map(|file| file.unwrap().path()) {
        std::fs::copy(&file, other.join(file.file_name().unwrap())).unwrap();
    }
    let mut weights = std::fs::read(other.join("model.safetensors")).unwrap();
    let at = weights.len() - 8;
    weights[at..].rotate_left(4);
    std::fs::write(other.join("model.safetensors"), weights).unwrap();
    // Each process reads a file of its own: the second one's has other lines, the third one has none; or other weights.
    for (name, (ranks, prepare, words)) in ["bad", "worse", "worst"].into_iter().zip([
        (
            2,
            "sed s/rain/sun/ $songs > $own",
            "the ranks are not about to do the same: on rank 0 the training data is 23",
        ),
        (3, "test $OMPI_COMM_WORLD_RANK = 1 && cp $songs $own", "own.2.txt"),
        (
            2,
            "cp $songs $own; base=$other",
            "the ranks are not about to do the same: on rank 0 the model to start from is of weights with the hash",
        ),
    ]) {
        // Of its own: what was ended may still be ending.
        let args = room.adapt(name, &[]);
        let own = format!("{}.$OMPI_COMM_WORLD_RANK.txt", own.display());
        let shell = format!(
            "songs={}; own={own}; base={}; other={}; if test $OMPI_COMM_WORLD_RANK = 0; then cp $songs $own; else {prepare}; fi; exec \"$@\"",
            songs.display(),
            base.display(),
            other.display()
        );
        let script = room.path("script.sh");
        std::fs::write(&script, shell.replace("exec \"$@\"", "exec \"$0\" \"$@\" --train $own --model $base")).unwrap();
        let mut rest: Vec<String> = args.clone();
        let at = rest.iter().position(|arg| arg == "--train").unwrap();
        rest.splice(at..at + 2, []);
        let at = rest.iter().position(|arg| arg == "--model").unwrap();
        rest.splice(at..at + 2, []);
        let command = mpirun(ranks, &strs(&rest));
        // mpirun's own arguments, then a shell in front of the program.
        let mut shelled = Command::new("mpirun");
        let all: Vec<_> = command.get_args().map(std::ffi::OsStr::to_owned).collect();
        shelled.args(&all[..3]).args(["sh", "-c", &std::fs::read_to_string(&script).unwrap()]).args(&all[3..]);
        shelled.stdin(Stdio::null());
        for (name, value) in command.get_envs().filter_map(|(name, value)| Some((name, value?))) {
            shelled.env(name, value);
        }
        let began = Instant::now();
        let ended = output(&mut shelled);
        let told = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(!ended.status.success());
        let errors: Vec<&str> = told.lines().filter(|line| line.starts_with("error: ")).collect();
        assert!(errors.len() == 1 && errors[0].contains(words), "{told}");
        assert!(began.elapsed() < Duration::from_secs(60), "nobody waited for the watchdog");
    }
    for name in ["bad", "worse", "worst"] {
        assert!(!Path::new(&room.path(name)).join("config.json").exists());
    }
}

/// A process that is alive and silent, as one whose driver hangs.
#[cfg(target_os = "linux")]
#[test]
fn a_process_that_does_not_answer_is_given_up() {
    let room = Room::new();
    // What shaders take to compile for the first time counts as silence, too: here a driver keeps them.
    stdout(&output(&mut mpirun(2, &strs(&room.adapt("before", &["--max-steps", "2"])))));
    let args = room.adapt("silent", &["--ddp-timeout", "20", "--save-steps", "3"]);
    let mut args = strs(&args);
    let at = args.iter().position(|arg| *arg == "--num-train-epochs").unwrap();
    args[at + 1] = "100000";
    let mut child = mpirun(2, &args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    while !room.path("silent").join("checkpoint-3").is_dir() {
        assert!(
            began.elapsed() < Duration::from_secs(180) && child.try_wait().unwrap().is_none(),
            "no checkpoint came"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    let silent = children(child.id()).pop().unwrap();
    assert!(Command::new("kill").args(["-STOP", &silent.to_string()]).status().unwrap().success());
    let ended = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!ended.status.success() && told.contains("did not answer within 20 s"), "{told}");
    assert!(room.path("silent").join("checkpoint-3/trainer_state.json").exists());
}

/// Two network namespaces with a cable between them, and a way for mpirun to start programs in the other one.
#[cfg(target_os = "linux")]
struct Hosts {
    names: [String; 2],
    agent: PathBuf,
}

#[cfg(target_os = "linux")]
impl Hosts {
    const ADDRESSES: [&str; 2] = ["10.77.0.1", "10.77.0.2"];

    fn new(room: &Room) -> Self {
        let id = std::process::id() % 10_000;
        let names = ["a", "b"].map(|side| format!("retto-{side}-{id}"));
        let agent = room.path("agent.sh");
        let hosts = Self { names, agent };
        let [a, b] = &hosts.names;
        let cables = ["a", "b"].map(|side| format!("rt{side}{id}"));
        hosts.ip(&format!("netns add {a}"));
        hosts.ip(&format!("netns add {b}"));
        hosts.ip(&format!("link add {} type veth peer name {}", cables[0], cables[1]));
        for ((name, cable), address) in hosts.names.iter().zip(&cables).zip(Self::ADDRESSES) {
            hosts.ip(&format!("link set {cable} netns {name}"));
            hosts.ip(&format!("-n {name} addr add {address}/24 dev {cable}"));
            hosts.ip(&format!("-n {name} link set {cable} up"));
            hosts.ip(&format!("-n {name} link set lo up"));
        }
        let script = format!(
            "#!/bin/sh\nhost=$1; shift\ncase $host in {}) name={a};; *) name={b};; esac\nexec ip netns exec $name sh -c \"$*\"\n",
            Self::ADDRESSES[0]
        );
        std::fs::write(&hosts.agent, script).unwrap();
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&hosts.agent, executable).unwrap();
        hosts
    }

    fn ip(&self, arguments: &str) {
        let status = Command::new("ip").args(arguments.split(' ')).status().expect("this test needs ip, of iproute2");
        assert!(status.success(), "ip {arguments}: this test needs root");
    }
}

#[cfg(target_os = "linux")]
impl Drop for Hosts {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

/// Processes of two hosts, which have nothing but a network between them, make the steps of one.
#[cfg(target_os = "linux")]
#[test]
#[ignore = "makes network namespaces, which takes root: make test-hosts"]
fn two_hosts_make_the_steps_of_one() {
    let room = Room::new();
    let hosts = Hosts::new(&room);
    stdout(&run(&strs(&room.adapt("alone", &[]))));
    let local = mpirun(2, &strs(&room.adapt("of-two", &[])));
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &hosts.names[0], "mpirun", "--mca", "plm_rsh_agent", text(&hosts.agent)]);
    for name in ["btl_tcp_if_include", "oob_tcp_if_include"] {
        command.args(["--mca", name, "10.77.0.0/24"]);
    }
    let [first, second] = Hosts::ADDRESSES;
    command.args(["--mca", "btl", "self,tcp", "--host", &format!("{first}:1,{second}:1"), "-n", "2"]);
    for (name, value) in local.get_envs().filter_map(|(name, value)| Some((name, value?))) {
        if !name.to_string_lossy().contains("btl") {
            command.env(name, value);
            // Where a variable is not handed on by the launcher's own rules.
            command.args(["-x", &name.to_string_lossy()]);
        }
    }
    // After `-n 2 --oversubscribe` comes the program.
    let output = output(command.args(local.get_args().skip(3)).stdin(Stdio::null()));
    assert_eq!(stdout(&output).matches("12 steps").count(), 1);
    room.assert_alike("of-two", "alone");
}
