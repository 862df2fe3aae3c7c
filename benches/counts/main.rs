//! Instructions of the packet core for each row of the benches `pipeline`, `stages` and `nat`, against those that are
//! committed in `benches/counts/expected.txt`.
//!
//! Time depends on the machine and on what else it does; the number of instructions does not. This program runs itself
//! under valgrind's callgrind, which counts what [`rows::run`] does in its counted part, and nothing of how it was prepared. Only
//! instructions of this binary count: which `memcpy` the C library picks depends on the processor.
//!
//! `cargo bench --bench counts` fails if a row takes more instructions than committed by [`TOLERANCE`]. `-- --write`
//! commits what was counted: do so when a row became cheaper, or dearer for a reason that the commit gives. Counts belong
//! to one compiler: another release needs them anew.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot be made ends with the reason")]

#[path = "../work/packets.rs"]
mod packets;
mod profile;
#[path = "../work/records.rs"]
mod records;
mod rows;
#[path = "../work/stage.rs"]
mod stage;
#[path = "../work/translator.rs"]
mod translator;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use clap::Parser;

/// Share by which a row may exceed what is committed: what a new order of the code may cost by chance.
const TOLERANCE: f64 = 0.03;

#[derive(Debug, Parser)]
struct Args {
    /// Write the counts to expected.txt instead of comparing with it
    #[arg(long)]
    write: bool,
    /// Only run the row of this number: what happens inside valgrind
    #[arg(long, hide = true)]
    row: Option<usize>,
    /// As cargo calls it
    #[arg(long, hide = true)]
    bench: bool,
    /// As cargo calls it
    #[arg(long, hide = true)]
    test: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(row) = args.row {
        rows::run(row);
        return ExitCode::SUCCESS;
    }
    let counts = count();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/counts/expected.txt");
    if args.write {
        std::fs::write(&file, text(&counts)).unwrap();
        println!("{} rows written to {}", counts.len(), file.display());
        return ExitCode::SUCCESS;
    }
    compare(&counts, &committed(&file))
}

/// Instructions of each row, for one wire packet.
fn count() -> Vec<(String, f64)> {
    let folder = std::env::temp_dir().join(format!("faultwire-counts-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let this = std::env::current_exe().unwrap();
    let counts = rows::rows().into_iter().enumerate().map(|(index, row)| {
        let instructions = profile::instructions_of(&profile(index, &folder), &this);
        assert!(instructions > 0, "no instruction of {} was counted", row.name);
        (row.name, instructions as f64 / (row.wires * u64::from(rows::ROUNDS)) as f64)
    });
    let counts = counts.collect();
    std::fs::remove_dir_all(&folder).unwrap();
    counts
}

/// What callgrind writes about one row, in a process of its own.
fn profile(row: usize, folder: &Path) -> String {
    let out = folder.join("profile");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet", "--compress-strings=no", "--compress-pos=no"])
        .arg(format!("--toggle-collect={}", rows::COUNTED))
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe().unwrap())
        .args(["--row", &row.to_string()])
        .output()
        .unwrap_or_else(|error| panic!("valgrind does not run (Debian: apt-get install valgrind): {error}"));
    assert!(output.status.success(), "row {row}: {}", String::from_utf8_lossy(&output.stderr));
    std::fs::read_to_string(&out).unwrap_or_else(|error| panic!("{}: {error}", out.display()))
}

/// As the file has them.
fn text(counts: &[(String, f64)]) -> String {
    let mut text = format!(
        "# Instructions a wire packet, made by `cargo bench --bench counts -- --write`\n# {}\n",
        compiler()
    );
    for (name, count) in counts {
        writeln!(text, "{count:>10.1}  {name}").unwrap();
    }
    text
}

fn committed(file: &Path) -> BTreeMap<String, f64> {
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let compiler = compiler();
    if !text.lines().any(|line| line.trim_start_matches("# ") == compiler) {
        eprintln!("note: the committed counts are of another compiler than this {compiler}");
    }
    let rows = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let (count, name) = line.trim().split_once("  ").unwrap_or_else(|| panic!("not a row: {line}"));
        (name.to_owned(), count.parse().unwrap())
    });
    rows.collect()
}

/// Release of the compiler that cargo uses.
fn compiler() -> String {
    let output = Command::new("rustc").arg("--version").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Prints both; fails if a row is dearer than committed, or one of them has a row that the other lacks.
fn compare(counts: &[(String, f64)], committed: &BTreeMap<String, f64>) -> ExitCode {
    let (mut dearer, mut cheaper, mut unknown) = (0, 0, 0);
    println!("{:<40} {:>10} {:>10}", "instructions a wire packet", "committed", "now");
    for (name, count) in counts {
        let Some(before) = committed.get(name) else {
            unknown += 1;
            println!("{name:<40} {:>10} {count:>10.1}  not committed", "");
            continue;
        };
        let change = count / before - 1.0;
        let remark = if change > TOLERANCE {
            dearer += 1;
            "  DEARER"
        } else if change < -TOLERANCE {
            cheaper += 1;
            "  cheaper"
        } else {
            ""
        };
        println!("{name:<40} {before:>10.1} {count:>10.1}  {:+.1} %{remark}", change * 100.0);
    }
    let gone = committed.keys().filter(|name| counts.iter().all(|(counted, _)| counted != *name));
    for name in gone {
        unknown += 1;
        println!("{name:<40} is committed and not counted");
    }
    if cheaper > 0 {
        println!("{cheaper} rows are cheaper: commit that with `cargo bench --bench counts -- --write`");
    }
    if dearer + unknown == 0 {
        return ExitCode::SUCCESS;
    }
    println!(
        "{dearer} rows are dearer by more than {:.0} %, {unknown} have no counterpart: make them cheaper, or say why in \
         the commit that refreshes them (`cargo bench --bench counts -- --write`)",
        TOLERANCE * 100.0
    );
    ExitCode::FAILURE
}
