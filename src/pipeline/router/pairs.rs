//! Which path leads from one port to another.
//!
//! Only pairs with stages have a path of their own. All others that lead to one port share a path without stages, so that
//! memory grows with the ports and the configured paths, not with the square of the ports.

use crate::pipeline::router::path::Path;

/// The number of the path of each pair of ports.
#[derive(Debug)]
pub(crate) struct Pairs {
    /// (from, to) and the path, sorted.
    own: Vec<((u16, u16), u16)>,
    /// The shared path to each port.
    shared: Vec<u16>,
}

impl Pairs {
    /// Numbers the configured `paths`, and adds to `paths` a shared path to each of `ports` ports.
    pub(crate) fn new(paths: &mut Vec<Path>, ports: usize) -> Self {
        let numbered = paths.iter().zip(0..);
        let mut own: Vec<_> = numbered.map(|(path, number)| ((path.from, path.to), number)).collect();
        own.sort_unstable();
        let shared = (0..ports).map(|to| add(paths, to as u16, to as u16)).collect();
        Self { own, shared }
    }

    /// The path that leads from port `from` to port `to`.
    pub(crate) fn find(&self, from: u16, to: u16) -> u16 {
        match self.position(from, to) {
            Ok(at) => self.own[at].1,
            Err(_) => self.shared[usize::from(to)],
        }
    }

    /// The path from port `from` to port `to` that no other pair shares; it is added to `paths` if there is none yet.
    pub(crate) fn own(&mut self, paths: &mut Vec<Path>, from: u16, to: u16) -> u16 {
        match self.position(from, to) {
            Ok(at) => self.own[at].1,
            Err(at) => {
                let number = add(paths, from, to);
                self.own.insert(at, ((from, to), number));
                number
            }
        }
    }

    fn position(&self, from: u16, to: u16) -> Result<usize, usize> {
        self.own.binary_search_by_key(&(from, to), |(pair, _)| *pair)
    }
}

/// Adds a path without stages and gives its number.
///
/// # Panics
/// If there are more paths than a packet can name. The configuration's limits on ports and paths prevent this.
fn add(paths: &mut Vec<Path>, from: u16, to: u16) -> u16 {
    let number = u16::try_from(paths.len()).expect("ports and paths are limited");
    paths.push(Path::empty(from, to));
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_without_stages_share_a_path_and_those_with_stages_do_not() {
        let mut paths = vec![Path::empty(4, 1), Path::empty(1, 4), Path::empty(0, 2)];
        let mut pairs = Pairs::new(&mut paths, 5);
        assert_eq!(paths.len(), 3 + 5);
        assert_eq!([pairs.find(4, 1), pairs.find(1, 4), pairs.find(0, 2)], [0, 1, 2]);
        assert_eq!(pairs.find(3, 1), pairs.find(2, 1));
        assert_eq!(paths[usize::from(pairs.find(3, 1))].to, 1);
        let back = pairs.own(&mut paths, 2, 0);
        assert_eq!((pairs.find(2, 0), pairs.own(&mut paths, 2, 0), paths.len()), (back, back, 9));
        assert_ne!(pairs.find(3, 0), back);
        assert_eq!(pairs.own(&mut paths, 4, 1), 0);
    }
}
