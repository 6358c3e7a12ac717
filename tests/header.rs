//! `include/retto.h` says what `src/capi` says, and compiles cleanly as C and C++.

mod common;

use std::process::Command;

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
        let output = Command::new(compiler)
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
