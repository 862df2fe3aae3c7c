//! The project's own rules, read from its sources.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use faultwire::config::Kind;

/// A layer may use itself and those before it.
const LAYERS: [&[&str]; 9] = [
    &["pipeline"],
    &["config"],
    &["faults.rs", "sim"],
    &["net", "device", "bpf"],
    &["attach", "veth.rs"],
    &["journal"],
    &["engine"],
    &["http.rs"],
    &["capture", "control", "hosts", "lab", "reach", "running.rs", "toxiproxy"],
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    if folder.is_file() {
        return vec![folder.to_owned()];
    }
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.extension().is_some_and(|extension| extension == ending) {
            found.push(path);
        }
    }
    found
}

/// Whether a file has nothing but tests.
fn is_of_tests(path: &Path) -> bool {
    path.ends_with("tests.rs") || path.parent().is_some_and(|folder| folder.ends_with("tests"))
}

/// The lines before the tests of a file.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let end = text.find("#[cfg(test)]\nmod tests").unwrap_or(text.len());
    text[..end].to_owned()
}

/// Whether `text` names the module `crate::MODULE`: what is in it, itself, or as one of a group in braces.
fn names(text: &str, module: &str) -> bool {
    text.split("crate::").skip(1).any(|rest| {
        let group = rest.strip_prefix('{').and_then(|rest| rest.split(';').next());
        let starts = |name: &str| {
            let behind = name.trim().strip_prefix(module);
            behind.is_some_and(|rest| !rest.starts_with(|next: char| next.is_alphanumeric() || next == '_'))
        };
        group.map_or_else(|| starts(rest), |group| group.split([',', '{', '}']).any(starts))
    })
}

#[test]
fn an_import_is_found_however_it_is_written() {
    let imports = [
        "use crate::config;",
        "use crate::config::spec;",
        "use crate::config as c;",
        "use crate::{config, pipeline};",
        "use crate::{pipeline::{flow, path}, config::spec};",
        "fn f(_: crate::config::Plan) {}",
    ];
    for text in imports {
        assert!(names(text, "config"), "{text}");
    }
    for text in
        ["use crate::configuration;", "use crate::{pipeline::x};", "let config = 1;", "use std::config;"]
    {
        assert!(!names(text, "config"), "{text}");
    }
}

#[test]
fn imports_point_one_way() {
    for (level, modules) in LAYERS.iter().enumerate() {
        let above = || LAYERS[level + 1..].iter().flat_map(|modules| modules.iter()).chain([&"cli"]);
        for module in *modules {
            // Tests may use whatever is at hand to say what they want, as a spec.
            let module = root().join("src").join(module);
            for file in files(&module, "rs").into_iter().filter(|file| !is_of_tests(file)) {
                let text = code(&file);
                for upper in above().map(|module| module.trim_end_matches(".rs")) {
                    assert!(!names(&text, upper), "{} imports crate::{upper}", file.display());
                }
            }
        }
    }
}

/// The packet core does no I/O, reads no clock, takes no lock and starts no thread.
#[test]
fn the_packet_core_is_pure() {
    let banned = [
        "std::fs",
        "std::thread",
        "std::io",
        "Mutex",
        "RwLock",
        "SystemTime",
        "Instant::now",
        "TcpStream",
        "unsafe",
    ];
    for file in files(&root().join("src/pipeline"), "rs") {
        for (number, line) in code(&file).lines().enumerate() {
            let line = line.split("//").next().unwrap();
            // A test may run on a thread of its own, whose stack is small.
            let allowed = is_of_tests(&file).then_some("std::thread");
            for word in banned.into_iter().filter(|word| Some(*word) != allowed) {
                assert!(!line.contains(word), "{}:{}: {word}", file.display(), number + 1);
            }
        }
    }
}

#[test]
fn files_stay_small() {
    for file in files(&root().join("src"), "rs") {
        let lines = code(&file).lines().count();
        let name = file.strip_prefix(root()).unwrap().display().to_string();
        if name.ends_with("tests.rs") || name.contains("/testing") {
            continue;
        }
        assert!(lines <= 450, "{name} has {lines} lines before its tests");
    }
}

#[test]
fn every_configuration_loads() {
    for file in fs::read_dir(root().join("configs")).unwrap().map(|entry| entry.unwrap().path()) {
        if file.is_file() {
            let text = fs::read_to_string(&file).unwrap();
            let loaded = if Kind::of(&text) == Some(Kind::Wire) {
                faultwire::config::load_wire(&file).map(drop)
            } else {
                faultwire::config::load(&file).map(drop)
            };
            loaded.unwrap_or_else(|error| panic!("{error}"));
        }
    }
    for folder in ["cases", "examples"] {
        for file in files(&root().join("configs").join(folder), "toml") {
            faultwire::lab::case::Case::load(&file).unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

/// What the README and the docs link to is there.
#[test]
fn links_lead_somewhere() {
    let mut pages = files(&root().join("docs"), "md");
    pages.push(root().join("README.md"));
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (file, heading) = link.split_once('#').map_or((link, None), |(file, at)| (file, Some(at)));
            if file.starts_with("http") {
                continue;
            }
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: {link}", page.display());
            if let Some(heading) = heading {
                let text = fs::read_to_string(&target).unwrap();
                let found = text.lines().any(|line| line.starts_with('#') && slug(line) == heading);
                assert!(found, "{}: {link}", page.display());
            }
        }
    }
}

/// A heading as links name it: lower case, without punctuation, hyphens for spaces.
fn slug(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars()
        .filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter))
        .map(|letter| if letter == ' ' { '-' } else { letter })
        .collect()
}
