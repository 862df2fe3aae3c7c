//! Maps that the worker and the kernel's programs share as memory.

#![expect(unsafe_code, reason = "mmap(2) of a map, and its memory as atomics")]

use std::ops::Deref;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use nix::errno::Errno;
use nix::libc;

/// The values of an array map, as words of 64 bits that programs may change at any time.
#[derive(Debug)]
pub(crate) struct Memory {
    start: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: atomics may be used from any thread, and the mapping belongs to no thread.
unsafe impl Send for Memory {}
// SAFETY: as above; there is no access but by atomics.
unsafe impl Sync for Memory {}

impl Memory {
    /// Maps the first `words` words of the array `map`, which must have been created with `BPF_F_MMAPABLE`.
    pub(super) fn of(map: BorrowedFd<'_>, words: usize) -> nix::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at a place that the kernel chooses.
        let start = unsafe {
            libc::mmap(std::ptr::null_mut(), words * 8, protection, libc::MAP_SHARED, map.as_raw_fd(), 0)
        };
        if start == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        Ok(Self { start: NonNull::new(start.cast()).ok_or(Errno::EFAULT)?, words })
    }
}

impl Deref for Memory {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is as long as that, page-aligned, and lives as long as this.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: mapped by `of` with this length, and no reference outlives this.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.words * 8) };
    }
}

#[cfg(test)]
impl Memory {
    /// Of no map.
    pub(crate) fn anonymous(words: usize) -> Self {
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at a place that the kernel chooses.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), words * 8, protection, flags, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED);
        Self { start: NonNull::new(start.cast()).unwrap(), words }
    }
}
