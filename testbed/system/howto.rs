//! The recipes of docs/howto.md and contrib/recipes, run as they are written.

use std::path::Path;
use std::process::Output;

use crate::system::common::{Folder, faultwire, said, tool};

/// Blocks of a document whose language is sh, with the heading that they are under.
fn blocks(text: &str) -> Vec<(String, String)> {
    let (mut all, mut heading, mut block) = (Vec::new(), String::new(), None::<String>);
    for line in text.lines() {
        match (&mut block, line) {
            (None, "```sh") => block = Some(String::new()),
            (Some(script), "```") => {
                all.push((heading.clone(), std::mem::take(script)));
                block = None;
            }
            (Some(script), line) => {
                script.push_str(line);
                script.push('\n');
            }
            (None, line) => {
                if let Some(name) = line.strip_prefix("## ") {
                    name.clone_into(&mut heading);
                }
            }
        }
    }
    all
}

/// Runs a script in a folder of its own, where `faultwire` is the binary under test.
fn run(folder: &Folder, script: &str) -> Output {
    drop(faultwire());
    let binary = Path::new(env!("CARGO_BIN_EXE_faultwire")).parent().unwrap();
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap());
    let mut bash = tool("bash");
    bash.args(["-euo", "pipefail", "-c", script]).current_dir(&folder.path).env("PATH", path);
    bash.output().unwrap()
}

#[test]
fn every_recipe_works_as_it_is_written() {
    let text = std::fs::read_to_string("docs/howto.md").unwrap();
    let recipes = blocks(&text);
    assert!(recipes.len() >= 9, "{}", recipes.len());
    for (heading, script) in recipes {
        let done = run(&Folder::new(), &script);
        assert!(done.status.success(), "{heading}: {}\n{script}", said(&done));
        let left = said(&tool("ip").args(["netns", "list"]).output().unwrap());
        assert!(!left.contains("how-") && !left.contains("howto-"), "{heading} leaves something: {left}");
    }
}

fn with_tests(script: &str) -> Folder {
    let folder = Folder::new();
    std::fs::write(folder.path.join("test.sh"), script).unwrap();
    assert!(tool("chmod").args(["+x", &folder.file("test.sh")]).status().unwrap().success());
    for name in ["test-behind-faults.sh", "Makefile"] {
        std::fs::copy(Path::new("contrib/recipes").join(name), folder.path.join(name)).unwrap();
    }
    folder
}

#[test]
fn the_shell_recipe_tells_which_networks_were_not_survived() {
    let works = "#!/bin/sh\nping -q -c 1 -w 5 $FAULTWIRE_HOST >/dev/null\n";
    let done = run(&with_tests(works), "./test-behind-faults.sh ./test.sh");
    assert!(done.status.success() && said(&done).matches("ok  ").count() == 4, "{}", said(&done));
    let big = "#!/bin/sh\nping -M do -q -s 1420 -c 1 -w 1 $FAULTWIRE_HOST >/dev/null\n";
    let done = run(&with_tests(big), "./test-behind-faults.sh ./test.sh");
    assert_eq!(done.status.code(), Some(1));
    assert!(
        said(&done).contains("FAILED  small packets") && said(&done).contains("ok      far"),
        "{}",
        said(&done)
    );
}

#[test]
fn the_recipe_for_make_fails_with_the_tests() {
    let folder = with_tests("#!/bin/sh\nping -q -c 1 -w 5 $FAULTWIRE_HOST >/dev/null\n");
    let done = run(&folder, "make test-far && make test-lossy");
    assert!(done.status.success(), "{}", said(&done));
    let folder = with_tests("#!/bin/sh\nexit 1\n");
    assert!(!run(&folder, "make test-far").status.success());
}

/// The steps of the workflow are run as a runner would; only the installation is left out, since the binary is here.
#[test]
fn the_workflow_for_github_runs() {
    let text = std::fs::read_to_string("contrib/recipes/github-actions.yml").unwrap();
    let mut steps: Vec<String> = Vec::new();
    let mut is_block = false;
    for line in text.lines() {
        if let Some(step) = line.trim_start().strip_prefix("run: ") {
            is_block = step == "|";
            steps.push(if is_block { String::new() } else { format!("{step}\n") });
        } else if is_block && line.starts_with("          ") {
            let step = steps.last_mut().unwrap();
            step.push_str(line.trim_start());
            step.push('\n');
        } else {
            is_block = false;
        }
    }
    assert!(steps.len() == 4 && steps[0].starts_with("cargo install "), "{steps:?}");
    let script = steps[1..].concat();
    let folder = with_tests("#!/bin/sh\nping -q -c 1 -w 5 $FAULTWIRE_HOST >/dev/null\n");
    // The tests run as root already, so sudo only runs its command.
    let sudo = "sudo() { while [ \"${1#--}\" != \"$1\" ]; do shift; done; \"$@\"; }\n";
    let done = run(&folder, &format!("{sudo}{script}"));
    assert!(done.status.success() && said(&done).contains("\"schema_version\": 1"), "{}", said(&done));
}
