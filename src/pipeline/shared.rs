//! State that the copies of one stage on different workers must share.
//!
//! A worker writes everything else alone. Stages share state only where a path has one thing by nature: the clock of
//! a rate limit, a count over the whole path. Each such state has a type of its own, made of atomic numbers.

use std::any::Any;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

/// Holds a stage's shared state. All its clones have the same state.
#[derive(Debug, Clone, Default)]
pub struct Shared(Arc<OnceLock<Arc<dyn Any + Send + Sync>>>);

impl Shared {
    /// The state. The first call makes it with its default value.
    ///
    /// # Panics
    /// If the first call was for another type: one place was given to two unrelated stages.
    pub fn state<T: Default + Send + Sync + 'static>(&self) -> Arc<T> {
        let state = self.0.get_or_init(|| Arc::new(T::default()));
        let of_type = Arc::clone(state).downcast();
        of_type.unwrap_or_else(|_| panic!("the shared state is no {}", std::any::type_name::<T>()))
    }
}

/// One number, with its cache lines to itself.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Alone(pub AtomicU64);

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn clones_have_one_state() {
        let (shared, other) = (Shared::default(), Shared::default());
        shared.state::<AtomicU64>().store(7, Ordering::Release);
        assert_eq!(shared.clone().state::<AtomicU64>().load(Ordering::Acquire), 7);
        assert_eq!(other.state::<AtomicU64>().load(Ordering::Acquire), 0);
    }

    #[test]
    #[should_panic(expected = "the shared state is no")]
    fn another_type_has_no_place_there() {
        let shared = Shared::default();
        shared.state::<AtomicU64>();
        shared.state::<[AtomicU64; 2]>();
    }
}
