//! The name of a link that several paths share.

use std::fmt;

/// Longest name in bytes.
const LONGEST: usize = 15;

/// Which link: stages of one router with the same share are one link with one queue.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Share {
    /// Padded with zeros.
    name: [u8; LONGEST],
    way: Way,
}

/// Which direction of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Way {
    /// The link has one direction.
    #[default]
    Only,
    /// From the first ends of links to the second.
    There,
    /// The opposite direction.
    Back,
}

impl Share {
    /// The direction `way` of the link `name`; `None` if the name is empty or longer than 15 bytes.
    pub fn new(name: &str, way: Way) -> Option<Self> {
        let mut bytes = [0; LONGEST];
        bytes.get_mut(..name.len()).filter(|_| !name.is_empty())?.copy_from_slice(name.as_bytes());
        Some(Self { name: bytes, way })
    }

    /// The name without the direction.
    pub fn name(&self) -> &str {
        let end = self.name.iter().position(|byte| *byte == 0).unwrap_or(LONGEST);
        std::str::from_utf8(&self.name[..end]).unwrap_or_default()
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = match self.way {
            Way::Only => "",
            Way::There => ", there",
            Way::Back => ", back",
        };
        write!(f, "{}{way}", self.name())
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Share({self})")
    }
}
