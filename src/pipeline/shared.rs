//! What the copies of one stage on different workers must share.
//!
//! Everything else a worker writes is its own. Stages share something only where one path is one thing by nature: the
//! clock of a rate limit, a count over the whole path. Each has a type for it, of a few atomic numbers.

use std::any::Any;
use std::sync::{Arc, OnceLock};

/// The place of a stage's shared state. Its clones have one state.
#[derive(Debug, Clone, Default)]
pub struct Shared(Arc<OnceLock<Arc<dyn Any + Send + Sync>>>);

impl Shared {
    /// The state. The first call makes it, with its default. A call for another type than that of the first call gets a
    /// state of its own, which is not shared.
    pub fn state<T: Default + Send + Sync + 'static>(&self) -> Arc<T> {
        let state = self.0.get_or_init(|| Arc::new(T::default()));
        Arc::clone(state).downcast().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn clones_have_one_state() {
        let (shared, other) = (Shared::default(), Shared::default());
        shared.state::<AtomicU64>().store(7, Ordering::Release);
        assert_eq!(shared.clone().state::<AtomicU64>().load(Ordering::Acquire), 7);
        assert_eq!(other.state::<AtomicU64>().load(Ordering::Acquire), 0);
        // Another type does not see it, and does not change it.
        assert!(shared.state::<[AtomicU64; 2]>().iter().all(|number| number.load(Ordering::Acquire) == 0));
        assert_eq!(shared.state::<AtomicU64>().load(Ordering::Acquire), 7);
    }
}
