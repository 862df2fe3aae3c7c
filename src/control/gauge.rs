//! One measurement for many requests.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::engine::Clock;
use crate::pipeline::time::Instant;

/// Measures on request, at most once in a given time. Each request gets a measurement that began after the request
/// came; all requests that wait share it.
pub(super) struct Gauge<T> {
    clock: Clock,
    pause: Duration,
    measure: Arc<dyn Fn() -> T + Send + Sync>,
    last: Mutex<Option<(Instant, T)>>,
}

impl<T: Clone + Send + 'static> Gauge<T> {
    pub(super) fn new(
        clock: Clock,
        pause: Duration,
        measure: impl Fn() -> T + Send + Sync + 'static,
    ) -> Self {
        Self { clock, pause, measure: Arc::new(measure), last: Mutex::new(None) }
    }

    /// `None` if the measurement panicked.
    pub(super) async fn read(&self) -> Option<T> {
        let came = self.clock.now();
        let mut last = self.last.lock().await;
        if let Some((begun, value)) = &*last {
            if *begun >= came {
                return Some(value.clone());
            }
            let since = self.clock.now().since(*begun);
            sleep(self.pause.saturating_sub(Duration::from_nanos(since.as_nanos()))).await;
        }
        let begun = self.clock.now();
        let measure = Arc::clone(&self.measure);
        let value = spawn_blocking(move || measure()).await.ok()?;
        *last = Some((begun, value.clone()));
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn many_requests_share_a_measurement_that_is_not_older_than_they_are() {
        let count = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&count);
        let measure = move || counted.fetch_add(1, Ordering::Relaxed);
        let gauge = Arc::new(Gauge::new(Clock::start(), Duration::from_millis(200), measure));
        runtime().block_on(async {
            assert_eq!(gauge.read().await, Some(0));
            let mut many = tokio::task::JoinSet::new();
            for _ in 0..50 {
                let gauge = Arc::clone(&gauge);
                many.spawn(async move { gauge.read().await });
            }
            while let Some(value) = many.join_next().await {
                assert_eq!(value.unwrap(), Some(1));
            }
            // A measurement from before the request is not an answer to it.
            assert_eq!(gauge.read().await, Some(2));
        });
        assert_eq!(count.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn a_measurement_that_fails_is_none() {
        let gauge = Gauge::new(Clock::start(), Duration::ZERO, || -> u32 { panic!("as asked") });
        assert_eq!(runtime().block_on(gauge.read()), None);
    }
}
