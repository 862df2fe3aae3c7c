//! A link and the queue in front of it, as all workers see them.

use std::sync::atomic::{AtomicU64, Ordering};

/// State that the copies of a stage with a link share.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct LinkState {
    /// When the link is free, in the unit of its service.
    pub clock: AtomicU64,
    /// The same for the second bucket, that of the peak rate.
    pub peak: AtomicU64,
    /// Wire packets that wait or are being sent.
    pub packets: AtomicU64,
    /// Their size on the link, in bytes.
    pub bytes: AtomicU64,
}

impl LinkState {
    /// Whether there is room for a wire packet that takes `bytes`: at most `packets` and `most` bytes are held. If
    /// so, it counts as held.
    pub fn admit(&self, bytes: u64, packets: Option<u64>, most: Option<u64>) -> bool {
        if !enter(&self.packets, 1, packets) {
            return false;
        }
        let has_room = enter(&self.bytes, bytes, most);
        if !has_room {
            self.packets.fetch_sub(1, Ordering::AcqRel);
        }
        has_room
    }

    /// Removes an admitted packet that has left.
    pub fn leave(&self, bytes: u64) {
        self.packets.fetch_sub(1, Ordering::AcqRel);
        self.bytes.fetch_sub(bytes, Ordering::AcqRel);
    }
}

/// Adds `more` unless that makes more than `most`: workers that race for the last place do not both get it.
pub fn enter(counter: &AtomicU64, more: u64, most: Option<u64>) -> bool {
    let most = most.unwrap_or(u64::MAX);
    let add = |held: u64| held.checked_add(more).filter(|&held| held <= most);
    counter.fetch_update(Ordering::AcqRel, Ordering::Acquire, add).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_limit_refuses_does_not_count_for_the_other() {
        let state = LinkState::default();
        assert!(state.admit(600, Some(2), Some(1_000)));
        assert!(!state.admit(401, Some(2), Some(1_000)));
        assert!(state.admit(400, Some(2), Some(1_000)));
        assert!(!state.admit(0, Some(2), Some(1_000)));
        state.leave(600);
        assert!(state.admit(600, Some(2), None));
        assert!(!state.admit(u64::MAX, None, None));
        assert_eq!((state.packets.into_inner(), state.bytes.into_inner()), (2, 1_000));
    }
}
