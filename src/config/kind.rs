//! The kind of a file (configuration, case, faults for attach), by its keys.

/// Keys that only cases have.
const CASE: [&str; 7] = ["story", "fault", "traffic", "expect", "control", "explain", "sweep"];
/// Keys that only configurations of a router have.
const CONFIG: [&str; 6] = ["port", "nodes", "path", "link", "route", "nat"];
/// Keys of a wire; a case or a configuration has them in its paths.
const WIRE: [&str; 5] = ["up", "down", "both", "phase", "match"];

/// The kinds of faultwire's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A router: `run`, `pcap --config`.
    Config,
    /// A case: `case run`, `case explain`.
    Case,
    /// The wire of an attached device: `attach --config`.
    Wire,
}

impl Kind {
    /// The kind of a file with this text, if its keys determine it.
    pub fn of(text: &str) -> Option<Self> {
        let root = text.parse::<toml::Table>().ok()?;
        let has = |keys: &[&str]| keys.iter().any(|key| root.contains_key(*key));
        [(&CASE[..], Self::Case), (&CONFIG, Self::Config), (&WIRE, Self::Wire)]
            .into_iter()
            .find_map(|(keys, kind)| has(keys).then_some(kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tell_what_a_file_is_for() {
        for (text, expected) in [
            ("up = \"loss\"", Some(Kind::Wire)),
            ("[[phase]]\nfor = \"1s\"", Some(Kind::Wire)),
            ("seed = 1", None),
            ("[[port]]\nname = \"a\"", Some(Kind::Config)),
            ("up = \"loss\"\n[[port]]\nname = \"a\"", Some(Kind::Config)),
            ("[[link]]\nup = \"loss\"", Some(Kind::Config)),
            ("nodes = [\"a\", \"b\"]", Some(Kind::Config)),
            ("story = \"x\"\n[[port]]\nname = \"a\"", Some(Kind::Case)),
            ("up = ", None),
        ] {
            assert_eq!(Kind::of(text), expected, "{text}");
        }
    }

    #[test]
    fn every_file_of_the_tree_is_recognised() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
        for (folder, expected) in [("", None), ("cases", Some(Kind::Case)), ("examples", Some(Kind::Case))] {
            let files = std::fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path());
            for file in files.filter(|file| file.extension().is_some_and(|end| end == "toml")) {
                let kind = Kind::of(&std::fs::read_to_string(&file).unwrap());
                let is_wire = file.ends_with("attach.toml");
                let own = if is_wire { Kind::Wire } else { Kind::Config };
                assert_eq!(kind, Some(expected.unwrap_or(own)), "{}", file.display());
            }
        }
    }
}
