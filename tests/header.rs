//! `include/retto.h` says what `src/capi` says, and compiles cleanly as C and C++.

mod common;

use common::root;

/// In the order in which a reader meets them.
const SOURCES: [&str; 12] = [
    "version", "status", "failure", "log", "input", "gpu", "model", "fills", "embed", "options", "progress", "trainer",
];

fn generated() -> String {
    let mut builder =
        cbindgen::Builder::new().with_config(cbindgen::Config::from_file(root().join("cbindgen.toml")).unwrap());
    for name in SOURCES {
        builder = builder.with_src(root().join(format!("src/capi/{name}.rs")));
    }
    let mut bytes = Vec::new();
    builder.generate().unwrap().write(&mut bytes);
    String::from_utf8(bytes).unwrap()
}

#[test]
fn the_header_is_what_the_sources_say() {
    let (path, generated) = (root().join("include/retto.h"), generated());
    if std::env::var_os("RETTO_WRITE_HEADER").is_some() {
        std::fs::write(&path, &generated).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap().replace("\r\n", "\n");
    assert!(
        committed == generated,
        "include/retto.h is not what src/capi says: run `make header`, and look at the change"
    );
}

#[test]
fn every_function_of_the_sources_is_declared_and_said_to_block_or_not() {
    let header = generated();
    let mut functions = 0;
    for name in SOURCES {
        let source = std::fs::read_to_string(root().join(format!("src/capi/{name}.rs"))).unwrap();
        for after in source.split("extern \"C\" fn ").skip(1) {
            let name = after.split('(').next().unwrap();
            if name.starts_with("retto_") {
                functions += 1;
                assert!(header.contains(&format!("{name}(")), "{name}");
            }
        }
        // What is said of each: its own words, or those of a function that it is said to be as.
        let mut comment = String::new();
        for line in source.lines() {
            if let Some(words) = line.strip_prefix("///") {
                comment += words;
            } else if let Some((_, name)) = line.split_once("extern \"C\" fn ") {
                let comment = std::mem::take(&mut comment);
                let says = |words: &[&str]| words.iter().any(|word| comment.contains(word));
                assert!(
                    says(&["thread", "s retto_"]) && says(&["block", "s retto_"]) || name.starts_with("retto_test"),
                    "{name}{comment}"
                );
            } else if !line.starts_with("#[") {
                comment.clear();
            }
        }
    }
    assert!(functions > 40, "{functions}");
}

#[cfg(unix)]
#[test]
fn the_header_compiles_cleanly_as_c_and_cpp() {
    let folder = tempfile::tempdir().unwrap();
    let program = "#include <retto.h>\nint main(void) { return retto_version() == RETTO_VERSION ? 0 : 1; }\n";
    let compile = |compiler: &str, standard: &str, file: &str| {
        let source = folder.path().join(file);
        std::fs::write(&source, program).unwrap();
        let output = std::process::Command::new(compiler)
            .args([standard, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only"])
            .arg(format!("-I{}", root().join("include").display()))
            .arg(&source)
            .output()
            .unwrap_or_else(|error| panic!("{compiler}: {error}"));
        assert!(output.status.success(), "{compiler} {standard}: {}", String::from_utf8_lossy(&output.stderr));
    };
    for standard in ["-std=c99", "-std=c11", "-std=c17"] {
        compile("cc", standard, "header.c");
    }
    for standard in ["-std=c++11", "-std=c++17", "-std=c++20"] {
        compile("c++", standard, "header.cpp");
    }
}

/// A struct's fields in order: what kind each is, and its name.
type Fields = Vec<(&'static str, String)>;

fn kind(words: &str) -> &'static str {
    match words.trim() {
        of if of.contains('*') || of.starts_with("POINTER") => "pointer",
        "c_char_p" | "c_void_p" | "IntPtr" | "retto_count_callback" | "CountCallback" => "pointer",
        "uint32_t" | "c_uint32" | "uint" => "u32",
        "int32_t" | "c_int32" | "int" => "i32",
        "uint64_t" | "c_uint64" | "ulong" => "u64",
        "size_t" | "c_size_t" | "UIntPtr" => "size",
        "double" | "c_double" => "f64",
        "float" | "c_float" => "f32",
        other => panic!("what is {other}?"),
    }
}

fn structs_of_the_header() -> Vec<(String, Fields)> {
    let header = generated();
    let of = |text: &str| {
        let (name, rest) = text.split_once(" {").unwrap();
        let body = rest.split_once("\n} ").unwrap().0;
        let fields = body.lines().map(str::trim).filter(|line| line.ends_with(';') && !line.starts_with('*'));
        let field = |line: &str| {
            let at = line.rfind([' ', '*']).unwrap() + 1;
            (kind(&line[..at]), line[at..].trim_end_matches(';').to_owned())
        };
        (name.to_owned(), fields.map(field).collect())
    };
    header
        .split("typedef struct retto_")
        .skip(1)
        .filter(|text| text.lines().next().unwrap().ends_with('{'))
        .map(of)
        .collect()
}

/// `retto_training_options` as `TrainingOptions`, `eval_loss` as `evalLoss`.
fn joined(words: &str, first_too: bool) -> String {
    let word = |(i, word): (usize, &str)| {
        let (first, rest) = word.split_at(1.min(word.len()));
        if i > 0 || first_too { first.to_uppercase() + rest } else { word.to_owned() }
    };
    words.split('_').enumerate().map(word).collect()
}

/// The same kinds of fields, under the same names, in the same order: what is exchanged with another would be a silent mistake.
#[test]
fn the_bindings_have_the_headers_structs() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    let (python, csharp) = (read("bindings/python/retto/_library.py"), read("bindings/csharp/Native.cs"));
    let structs = structs_of_the_header();
    let mut found = [0, 0];
    for (name, fields) in &structs {
        let class = joined(name, true);
        if let Some(rest) = python.split(&format!("\nclass {class}(Structure):\n    _fields_ = [")).nth(1) {
            let body = rest.split("]\n").next().unwrap();
            let entries = body.split("(\"").skip(1).map(|entry| entry.split_once("\", ").unwrap());
            let own: Fields =
                entries.map(|(name, of)| (kind(&of[..of.rfind(')').unwrap()]), name.to_owned())).collect();
            assert_eq!(&own, fields, "{class} in Python");
            found[0] += 1;
        }
        if let Some(rest) = csharp.split(&format!("public struct {class}\n")).nth(1) {
            let body = rest.split("\n        }\n").next().unwrap();
            let lines = body.lines().filter_map(|line| line.trim().strip_prefix("public ")?.strip_suffix(';'));
            let own: Fields = lines
                .map(|line| line.split_once(' ').unwrap())
                .flat_map(|(of, names)| names.split(", ").map(move |name| (kind(of), name.to_owned())))
                .collect();
            assert_eq!(own.len(), fields.len(), "{class} in C#");
            for ((own_kind, own), (kind, field)) in own.iter().zip(fields) {
                // Some names are shorter there.
                assert!(own_kind == kind && joined(field, false).starts_with(own), "{class} in C#: {own} for {field}");
            }
            found[1] += 1;
        }
    }
    assert!(structs.len() > 10 && found.iter().all(|&found| found > 8), "{found:?} of {}", structs.len());
}
