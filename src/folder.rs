//! A folder for one test.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder for one test, removed with it: no other user can have put a file or a link there.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    /// An empty one, for its owner only.
    pub(crate) fn new() -> Self {
        use std::os::unix::fs::DirBuilderExt;

        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("faultwire-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        // Fails if there is anything of that name.
        std::fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
        Self(path)
    }

    /// Where its file `name` is or would be.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
