//! The C library, used as its users use it: installed, linked in three ways, from C, C++, Python and C#, rightly and wrongly.
#![cfg(unix)]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use common::{fixtures, root};
use tempfile::TempDir;

const MODEL: &str = "models/retto-tiny";
const LINES: &str = "data/lyrics/original.txt";
const TEXT: &str = "lipstick stains on the [MASK]";
/// The shared library's file, and the name it carries for programs to look for.
const SHARED: &str = if cfg!(target_os = "macos") { "libretto.dylib" } else { "libretto.so" };
const CARRIED: &str = if cfg!(target_os = "macos") { "libretto.0.dylib" } else { "libretto.so.0" };

/// Runs a command in the repository, which has to succeed.
fn succeeds(command: &mut Command) -> Output {
    let output = command.current_dir(root()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    output
}

fn stdout(command: &mut Command) -> String {
    String::from_utf8(succeeds(command).stdout).unwrap()
}

/// This build's target folder: the library is built there, too, from the same dependencies.
fn target() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_retto")).parent().and_then(Path::parent).unwrap()
}

/// The variables that cargo and nextest set for a test would make a nested cargo build everything again.
fn without_cargo(command: &mut Command) -> &mut Command {
    let ours =
        |name: &str| name.starts_with("CARGO_PKG") || name.starts_with("CARGO_MANIFEST") || name.starts_with("NEXTEST");
    for (name, _) in std::env::vars().filter(|(name, _)| ours(name)) {
        command.env_remove(name);
    }
    command.env_remove("CARGO").env_remove("RUST_RECURSION_COUNT").env("CARGO_TARGET_DIR", target())
}

/// The folder with the libraries of this source, built with the tests' features.
fn library() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let mut command = Command::new("scripts/capi.sh");
        let folder = stdout(without_cargo(command.args(["dev", "--features", "all"])));
        root().join(folder.trim())
    })
}

/// An installation in a folder of its own.
fn install() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let prefix = folder.path().join("prefix");
    succeeds(Command::new("scripts/install.sh").arg(library()).arg(&prefix));
    (folder, prefix)
}

fn compile(compiler: &str, sources: &[&str], flags: &[&str], to: &Path) {
    let (folder, rpath) = (format!("-L{}", library().display()), format!("-Wl,-rpath,{}", library().display()));
    let strict = ["-g", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-Iinclude", "-Ibindings/cpp"];
    let link = [folder.as_str(), &rpath, "-lretto", "-lpthread"];
    let carried = library().join(CARRIED);
    if !carried.exists() {
        let _ = std::os::unix::fs::symlink(SHARED, &carried);
    }
    succeeds(Command::new(compiler).args(strict).args(flags).args(sources).args(link).arg("-o").arg(to));
}

/// A compiled test program.
fn program(name: &str, flags: &[&str]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    compile("cc", &[&format!("tests/capi/{name}.c")], &[&["-std=c11"], flags].concat(), &path);
    (folder, path)
}

/// Runs it: it says nothing but what it is to say.
fn run(command: &mut Command) -> String {
    let output = succeeds(command);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "the library wrote to stderr");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn only_functions_of_the_header_are_exported() {
    let header = std::fs::read_to_string(root().join("include/retto.h")).unwrap();
    let flags: &[&str] = if cfg!(target_os = "macos") { &["-gU"] } else { &["-D", "--defined-only"] };
    let symbols = stdout(Command::new("nm").args(flags).arg(library().join(SHARED)));
    let names: Vec<&str> = symbols.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
    let names: Vec<&str> = names.into_iter().map(|name| name.trim_start_matches('_')).collect();
    assert!(names.len() > 40, "{names:?}");
    for name in names {
        let hook = name.starts_with("retto_test_");
        assert!(hook || header.contains(&format!("{name}(")), "{name} is exported");
    }
}

#[test]
fn everything_an_app_can_get_wrong_has_an_answer() {
    let (folder, program) = program("misuse", &[]);
    assert_eq!(run(Command::new(program).args([MODEL, LINES]).arg(folder.path())), "ok\n");
}

#[test]
fn a_panic_and_a_lost_device_are_answers() {
    let (_folder, program) = program("hooks", &[]);
    assert_eq!(run(Command::new(program).arg(MODEL)), "ok\n");
}

#[test]
fn a_program_of_an_older_header_still_works() {
    let (_folder, program) = program("old_header", &[]);
    assert_eq!(run(Command::new(program).arg(MODEL)), "ok\n");
}

#[test]
fn sixteen_threads_get_the_answers_of_one() {
    let (_folder, program) = program("threads", &[]);
    assert_eq!(run(Command::new(program).args([MODEL, LINES, "16", "200"])), "ok\n");
}

/// What `scenario` prints in every language.
fn scenario() -> String {
    let (folder, program) = program("scenario", &[]);
    run(Command::new(program).args([MODEL, LINES]).arg(folder.path()))
}

#[test]
fn the_answers_are_those_of_the_crate() {
    let model = retto::Model::open(common::gpu(), root().join(MODEL)).unwrap();
    let fills = model.fill_mask(TEXT, 5).unwrap().remove(0);
    let base: String = fills.iter().map(|fill| format!("{} {} {}\n", fill.token, fill.score, fill.token_str)).collect();
    let scenario = scenario();
    let of_base = scenario.split("--\n").next().unwrap();
    // The same bits, however they are written.
    let parse = |text: &str| -> Vec<(String, f32, String)> {
        let line = |line: &str| {
            let mut words = line.splitn(3, ' ').map(str::to_owned);
            (words.next().unwrap(), words.next().unwrap().parse().unwrap(), words.next().unwrap())
        };
        text.lines().map(line).collect()
    };
    assert_eq!(parse(of_base), parse(&base));
}

#[test]
fn cpp_does_what_c_does() {
    let folder = tempfile::tempdir().unwrap();
    let scenario = scenario();
    // The later one has more ways to make a text of what stands in braces.
    for standard in ["c++17", "c++20"] {
        let (program, output) = (folder.path().join(standard), folder.path().join(format!("{standard}-output")));
        compile("c++", &["tests/bindings/scenario.cpp"], &[&format!("-std={standard}")], &program);
        std::fs::create_dir(&output).unwrap();
        assert_eq!(run(Command::new(program).args([MODEL, LINES]).arg(output)), scenario);
    }
}

#[test]
fn python_does_what_c_does() {
    let folder = tempfile::tempdir().unwrap();
    let environment = folder.path().join("environment");
    succeeds(Command::new("python3").args(["-m", "venv"]).arg(&environment));
    // A copy: building leaves files beside the sources.
    let package = folder.path().join("package");
    succeeds(Command::new("cp").arg("-r").arg("bindings/python").arg(&package));
    succeeds(
        Command::new(environment.join("bin/pip")).args(["install", "-q", "--disable-pip-version-check"]).arg(package),
    );
    let mut python = Command::new(environment.join("bin/python"));
    python.env("RETTO_LIBRARY", library().join(SHARED)).args(["tests/bindings/scenario.py", MODEL, LINES]);
    assert_eq!(run(python.arg(folder.path())), scenario());
}

/// With Mono, which Debian has; elsewhere nobody could install it for a test.
#[cfg(target_os = "linux")]
fn csharp(folder: &Path, name: &str) -> Command {
    let program = folder.join(format!("{name}.exe"));
    let sources = ["Retto", "Trainer", "Counting", "Ending", "Native"].map(|name| format!("bindings/csharp/{name}.cs"));
    let mut compiler = Command::new("mcs");
    compiler.args(["-langversion:7", "-warnaserror"]).arg(format!("tests/bindings/{name}.cs")).args(sources);
    succeeds(compiler.arg(format!("-out:{}", program.display())));
    let mut mono = Command::new("mono");
    mono.env("LD_LIBRARY_PATH", library()).arg(program);
    mono
}

#[cfg(target_os = "linux")]
#[test]
fn csharp_does_what_c_does() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(run(csharp(folder.path(), "Scenario").args([MODEL, LINES]).arg(folder.path())), scenario());
}

#[cfg(target_os = "linux")]
#[test]
fn csharp_ends_while_threads_are_in_calls() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(run(csharp(folder.path(), "Exit").arg(MODEL)), "ends\n");
}

#[test]
fn an_installation_is_found_by_pkg_config_and_cmake() {
    let (folder, prefix) = install();
    let pkg_config = |package: &str| {
        let mut command = Command::new("pkg-config");
        command.env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig")).args(["--cflags", "--libs", package]);
        stdout(&mut command).split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let fills = |program: &Path| {
        let answer = run(Command::new(program).env("LD_LIBRARY_PATH", prefix.join("lib")).args([MODEL, TEXT]));
        assert!(answer.lines().count() == 5 && answer.contains("lipstick stains on the "), "{answer}");
        answer
    };
    let finds_library = |program: &Path| {
        let mut command = Command::new(program);
        // cargo sets them for tests, and the library that was built lies there.
        for name in ["LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH"] {
            command.env_remove(name);
        }
        command.current_dir(root()).args([MODEL, TEXT]).output().unwrap().status.success()
    };

    let shared = folder.path().join("shared");
    succeeds(Command::new("cc").arg("examples/fill.c").args(pkg_config("retto")).arg("-o").arg(&shared));
    let answer = fills(&shared);
    // macOS has no ldconfig: there pkg-config has programs told where the library lies.
    assert_eq!(finds_library(&shared), cfg!(target_os = "macos"));

    let whole = folder.path().join("static");
    succeeds(Command::new("cc").arg("examples/fill.c").args(pkg_config("retto-static")).arg("-o").arg(&whole));
    assert_eq!(fills(&whole), answer);
    assert!(finds_library(&whole));

    let project = folder.path().join("project");
    std::fs::create_dir(&project).unwrap();
    std::fs::copy(root().join("examples/fill.c"), project.join("fill.c")).unwrap();
    let lists = "cmake_minimum_required(VERSION 3.16)\nproject(fill C)\nfind_package(retto 0.1 REQUIRED)\n\
                 add_executable(fill fill.c)\ntarget_link_libraries(fill retto::retto)\n\
                 add_executable(fill_static fill.c)\ntarget_link_libraries(fill_static retto::static)\n";
    std::fs::write(project.join("CMakeLists.txt"), lists).unwrap();
    let build = project.join("build");
    let prefix_path = format!("-DCMAKE_PREFIX_PATH={}", prefix.display());
    succeeds(Command::new("cmake").arg("-S").arg(&project).arg("-B").arg(&build).arg(prefix_path));
    succeeds(Command::new("cmake").arg("--build").arg(&build));
    assert_eq!(fills(&build.join("fill")), answer);
    assert_eq!(fills(&build.join("fill_static")), answer);

    if cfg!(target_os = "linux") {
        // The library carries its major version, and the links lead to it.
        let dynamic = stdout(Command::new("readelf").arg("-d").arg(prefix.join("lib/libretto.so")));
        assert!(dynamic.contains("[libretto.so.0]"), "{dynamic}");
        assert_eq!(prefix.join("lib/libretto.so.0").read_link().unwrap(), Path::new("libretto.so.0.1.0"));
    }
    // DESTDIR is where files go, PREFIX what they say.
    let staged = folder.path().join("staged");
    succeeds(Command::new("scripts/install.sh").arg(library()).arg("/opt/retto").arg(&staged));
    let pc = std::fs::read_to_string(staged.join("opt/retto/lib/pkgconfig/retto.pc")).unwrap();
    assert!(pc.starts_with("prefix=/opt/retto\n"), "{pc}");
}

/// A script, run as if on another system: it takes these functions for the programs of their names.
fn on(system: &str, script: &str, folder: &Path) -> Command {
    let functions = folder.join("functions");
    let cargo = r#"{ echo "$*" >"$BASH_ENV.told"; echo "note: native-static-libs: -lm" >&2; }"#;
    std::fs::write(&functions, format!("uname() {{ echo {system}; }}\ncargo() {cargo}\n")).unwrap();
    let mut command = Command::new(script);
    command.current_dir(root()).env("BASH_ENV", functions);
    command
}

#[test]
fn the_library_is_named_as_its_system_wants_it() {
    let names = [
        ("Linux", " -C link-arg=-Wl,-soname,libretto.so.0"),
        ("Darwin", " -C link-arg=-Wl,-install_name,@rpath/libretto.0.dylib"),
        ("MINGW64_NT-10.0", ""),
    ];
    for (system, options) in names {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("capi")).unwrap();
        let mut script = on(system, "scripts/capi.sh", folder.path());
        stdout(script.arg("capi").env("CARGO_TARGET_DIR", folder.path()));
        let told = std::fs::read_to_string(folder.path().join("functions.told")).unwrap();
        assert!(told.ends_with(&format!(" -- --print native-static-libs{options}\n")), "{system}: {told}");
    }
}

/// What an installation says of itself where the test does not run, with files that are empty.
#[test]
fn an_installation_is_what_its_system_wants() {
    let folder = tempfile::tempdir().unwrap();
    let install = |system: &str, files: &str, native: &str| {
        // A name as people have them, of which every tool has its own opinion.
        let (built, prefix) = (folder.path().join("built"), folder.path().join(format!("R&D of {system}")));
        let _ = std::fs::remove_dir_all(&built);
        std::fs::create_dir(&built).unwrap();
        for file in files.split(' ') {
            std::fs::write(built.join(file), "").unwrap();
        }
        std::fs::write(built.join("retto.native-libs"), native).unwrap();
        let output = on(system, "scripts/install.sh", folder.path()).arg(built).arg(&prefix).output().unwrap();
        (output, prefix)
    };
    let project = folder.path().join("project");
    std::fs::create_dir(&project).unwrap();
    let lists = "cmake_minimum_required(VERSION 3.16)\nproject(reads NONE)\nfind_package(retto 0.1 REQUIRED)\n\
                 foreach(name IMPORTED_LOCATION IMPORTED_IMPLIB IMPORTED_SONAME)\n\
                 get_target_property(value retto::retto ${name})\nmessage(STATUS \"${name} ${value}\")\nendforeach()\n\
                 get_target_property(value retto::static INTERFACE_LINK_LIBRARIES)\nmessage(STATUS \"${value}\")\n";
    std::fs::write(project.join("CMakeLists.txt"), lists).unwrap();

    // Of each system: what is there, what pkg-config says of the two libraries, what CMake does.
    let cases = [
        (
            "Linux",
            "libretto.so libretto.a",
            "-lm -lc",
            [r#""-L${libdir}" -lretto"#, r#""${libdir}/libretto.a" -lm -lc"#],
            ["LOCATION PREFIX/lib/libretto.so.0", "IMPLIB value-NOTFOUND", "SONAME libretto.so.0", "-lm;-lc"],
        ),
        (
            "Darwin",
            "libretto.dylib libretto.a",
            "-framework Metal -lm",
            [r#""-L${libdir}" "-Wl,-rpath,${libdir}" -lretto"#, r#""${libdir}/libretto.a" -framework Metal -lm"#],
            [
                "LOCATION PREFIX/lib/libretto.0.dylib",
                "IMPLIB value-NOTFOUND",
                "SONAME @rpath/libretto.0.dylib",
                "-framework Metal;-lm",
            ],
        ),
        (
            "MINGW64_NT-10.0",
            "retto.dll retto.dll.lib retto.lib",
            "kernel32.lib /defaultlib:msvcrt",
            [r#""${libdir}/retto.dll.lib""#, r#""${libdir}/retto.lib" kernel32.lib -defaultlib:msvcrt"#],
            [
                "LOCATION PREFIX/bin/retto.dll",
                "IMPLIB PREFIX/lib/retto.dll.lib",
                "SONAME value-NOTFOUND",
                "kernel32.lib;-defaultlib:msvcrt",
            ],
        ),
        (
            "MSYS_NT-10.0",
            "retto.dll libretto.dll.a libretto.a",
            "-lkernel32",
            [r#""${libdir}/libretto.dll.a""#, r#""${libdir}/libretto.a" -lkernel32"#],
            [
                "LOCATION PREFIX/bin/retto.dll",
                "IMPLIB PREFIX/lib/libretto.dll.a",
                "SONAME value-NOTFOUND",
                "-lkernel32",
            ],
        ),
    ];
    for (system, files, native, libs, properties) in cases {
        let (output, prefix) = install(system, files, native);
        assert!(output.status.success(), "{system}: {}", String::from_utf8_lossy(&output.stderr));
        for (package, libs) in ["retto", "retto-static"].into_iter().zip(libs) {
            let pc = std::fs::read_to_string(prefix.join(format!("lib/pkgconfig/{package}.pc"))).unwrap();
            assert!(pc.contains(&format!("\nLibs: {libs}\n")), "{system}: {pc}");
        }
        // As a shell takes what it says.
        let mut shell = Command::new("sh");
        shell.args(["-c", "eval \"set -- $(pkg-config --cflags retto)\"; printf '%s\\n' \"$@\""]);
        let said = stdout(shell.env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig")));
        assert_eq!(said, format!("-I{}/include\n", prefix.display()));
        let (build, prefix) = (project.join(system), prefix.display().to_string());
        let mut cmake = Command::new("cmake");
        cmake.arg("-S").arg(&project).arg("-B").arg(&build).arg(format!("-DCMAKE_PREFIX_PATH={prefix}"));
        let said = stdout(&mut cmake);
        for property in properties {
            assert!(
                said.contains(&format!("{}\n", property.replace("PREFIX", &prefix))),
                "{system}, {property}: {said}"
            );
        }
    }

    // What is not there is named, before anything is copied.
    let (output, prefix) = install("CYGWIN_NT-10.0", "retto.dll libretto.a", "-lkernel32");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("has no libretto.dll.a"), "{said}");
    assert!(!prefix.exists());
}

#[test]
fn the_examples_run() {
    let folder = tempfile::tempdir().unwrap();
    let (fill, adapt) = (folder.path().join("fill"), folder.path().join("adapt"));
    compile("cc", &["examples/fill.c"], &["-std=c99"], &fill);
    compile("cc", &["examples/adapt.c"], &["-std=c99"], &adapt);
    assert_eq!(run(Command::new(&fill).args([MODEL, TEXT])).lines().count(), 5);
    let output = folder.path().join("adapted");
    let few = folder.path().join("few.txt");
    let lines = std::fs::read_to_string(root().join(LINES)).unwrap();
    std::fs::write(&few, lines.lines().take(80).collect::<Vec<_>>().join("\n")).unwrap();
    let told = succeeds(Command::new(&adapt).arg(MODEL).arg(few).arg(&output).arg(TEXT));
    let told = String::from_utf8(told.stdout).unwrap();
    let [before, after] = told.lines().collect::<Vec<_>>()[..] else { panic!("{told}") };
    assert!(before.starts_with("before:  ") && after.starts_with("after:  "), "{told}");
    assert_ne!(before.split_once(':').unwrap().1, after.split_once(':').unwrap().1);
    assert_eq!(run(Command::new(&fill).arg(output).arg(TEXT)).lines().count(), 5);
    let failed = Command::new(&fill).current_dir(root()).args(["no/such/model", TEXT]).output().unwrap();
    assert!(!failed.status.success() && String::from_utf8(failed.stderr).unwrap().starts_with("error: no/such/model"));
}

#[test]
fn addresses_are_right_and_nothing_leaks() {
    let (folder, program) = program("misuse", &["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]);
    let mut command = Command::new(program);
    assert_eq!(run(command.args([MODEL, LINES]).arg(folder.path())), "ok\n");
}

/// With a small model: what is done to memory does not depend on sizes. The driver's compiler is what takes the time.
#[cfg(target_os = "linux")]
#[test]
#[ignore = "takes six minutes: make memcheck"]
fn memcheck_finds_no_error_and_no_leak() {
    let (_folder, program) = program("memory", &[]);
    let small = fixtures().join("fillmask");
    let mut command = Command::new("valgrind");
    command.args(["-q", "--leak-check=full", "--error-exitcode=9", "--errors-for-leak-kinds=definite"]);
    command.args(["--show-leak-kinds=definite"]).arg("--suppressions=tests/capi/valgrind.supp");
    assert_eq!(run(command.arg(program).arg(small)), "ok\n");
}
