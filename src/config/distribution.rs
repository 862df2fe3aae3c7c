//! Distributions by name and by file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::suggest;
use crate::pipeline::params::Distribution;
use crate::pipeline::random::distribution::Table;

/// Shapes that need no file.
const OWN: [&str; 4] = ["uniform", "normal", "pareto", "paretonormal"];
/// Where tc's packages put their files.
const TC: [&str; 5] = ["/usr/lib/tc", "/lib/tc", "/usr/lib64/tc", "/usr/local/lib/tc", "/usr/share/tc"];

/// The error for an unknown name, with a suggestion.
pub(super) type Refusal = (String, String);

/// The error for a file where no file may be named.
pub(super) fn no_files(name: &str) -> Refusal {
    (
        format!("\"{name}\" is a file, and none may be named here"),
        "only the host's administrator names files".to_owned(),
    )
}

/// The error for a file that was named instead of a distribution.
fn no_distribution(name: &str) -> Refusal {
    let (what, hint) = no_files(name);
    (what, format!("allowed: {}, or a name of tc's; {hint}", OWN.join(", ")))
}

/// The distribution with this name, or in this file (a name with a / or that ends in .dist), relative to `base`.
/// Without a base, no file may be named.
pub(super) fn find(name: &str, base: Option<&Path>) -> Result<Distribution, Refusal> {
    match name {
        "uniform" => return Ok(Distribution::Uniform),
        "normal" => return Ok(Distribution::Normal),
        "pareto" => return Ok(shape(Table::pareto())),
        "paretonormal" => return Ok(shape(Table::paretonormal())),
        _ => {}
    }
    let is_path = name.contains('/') || Path::new(name).extension().is_some_and(|end| end == "dist");
    if is_path {
        return base.ok_or_else(|| no_distribution(name)).and_then(|base| read(name, &base.join(name)));
    }
    let own = std::env::var_os("TC_LIB_DIR").map(PathBuf::from);
    let folders = own.into_iter().chain(multiarch(Path::new("/usr/lib"))).chain(TC.map(PathBuf::from));
    let files: Vec<PathBuf> = folders.map(|folder| folder.join(format!("{name}.dist"))).collect();
    if let Some(file) = files.iter().find(|file| file.exists()) {
        return read(name, file);
    }
    let hint = match suggest::nearest(name, OWN) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!(
            "allowed: {}, a file's path, or a name of tc's in /usr/lib/*-linux-*/tc, {}",
            OWN.join(", "),
            TC.join(", ")
        ),
    };
    Err((format!("\"{name}\" is not a known distribution"), hint))
}

/// Debian's folders with tc's distributions, one for each architecture, such as `/usr/lib/x86_64-linux-gnu/tc`.
fn multiarch(lib: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(lib).into_iter().flatten().flatten();
    let is_one = |path: &PathBuf| path.to_string_lossy().contains("-linux-");
    let mut folders: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(is_one).map(|path| path.join("tc")).collect();
    folders.sort();
    folders
}

fn read(name: &str, file: &Path) -> Result<Distribution, Refusal> {
    let hint = || "a table is whole numbers between -32768 and 32767, 8192 for one jitter".to_owned();
    let text = crate::config::text::read(file)
        .map_err(|error| (format!("{} cannot be read: {error}", file.display()), hint()))?;
    let table =
        Table::parse(name, &text).map_err(|error| (format!("{}: {error}", file.display()), hint()))?;
    Ok(shape(table))
}

fn shape(table: Table) -> Distribution {
    Distribution::Table(Arc::new(table))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::Folder;

    #[test]
    fn the_folder_of_any_architecture_is_searched() {
        let folder = Folder::new();
        let lib = folder.file("lib");
        for name in ["riscv64-linux-gnu", "arm-linux-gnueabihf", "python3"] {
            std::fs::create_dir_all(lib.join(name).join("tc")).unwrap();
        }
        let expected = ["arm-linux-gnueabihf", "riscv64-linux-gnu"].map(|name| lib.join(name).join("tc"));
        assert_eq!(multiarch(&lib), expected);
        assert_eq!(multiarch(Path::new("/no/such/folder")), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_file_is_found_by_its_path_and_refused_with_its_line() {
        let folder = Folder::new();
        std::fs::write(folder.file("mine.dist"), "-8192 0 8192\n").unwrap();
        std::fs::write(folder.file("bad.dist"), "1\nx\n").unwrap();
        let find = |name: &str| find(name, Some(&folder.0));
        let found = find("mine.dist").unwrap();
        assert!(matches!(found, Distribution::Table(table) if table.entries() == [-8_192, 0, 8_192]));
        let (what, _) = find("bad.dist").unwrap_err();
        assert!(what.contains("bad.dist: line 2"), "{what}");
        let (what, _) = find("./none.dist").unwrap_err();
        assert!(what.contains("cannot be read"), "{what}");
        let (what, hint) = find("paretto").unwrap_err();
        assert!(what.contains("not a known distribution") && hint.contains("pareto"), "{what} {hint}");
    }
}
