//! The least that forwards between two TUN devices: read one frame, write it to the other.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use faultwire::device::Queue;
use faultwire::device::tun::FRAME_MAX;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A running pump.
pub(crate) struct Pump {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Pump {
    pub(crate) fn start(ends: [Queue; 2]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || pump(&ends, &stopped));
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn pump(ends: &[Queue; 2], stop: &AtomicBool) {
    let mut buffer = vec![0; FRAME_MAX];
    let mut fds =
        [PollFd::new(ends[0].as_fd(), PollFlags::POLLIN), PollFd::new(ends[1].as_fd(), PollFlags::POLLIN)];
    while !stop.load(Ordering::Relaxed) {
        poll(&mut fds, PollTimeout::from(50_u8)).unwrap();
        for (from, to) in [(0, 1), (1, 0)] {
            if fds[from].any().unwrap_or(true)
                && let Ok(length) = ends[from].recv(&mut buffer)
            {
                // A frame that is refused is lost, as on any wire.
                let _ = ends[to].send(&buffer[..length]);
            }
        }
    }
}
