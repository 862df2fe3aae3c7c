//! The least that forwards: read a frame from a device and write it, to the other of two TUN devices, or to the same TAP device of an
//! attachment, whose hooks send it on.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use faultwire::device::Queue;
use faultwire::device::tun::FRAME_MAX;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// When a pump waits for frames again.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wait {
    /// After each queue has been read until it is empty. Fewer calls: the faster of the two, hence the base.
    Empty,
    /// After one frame of each queue, as simple forwarders do.
    EachFrame,
}

/// A running pump.
pub(crate) struct Pump {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Pump {
    /// Writes what comes by each of two queues to the queue with this number.
    pub(crate) fn start(ends: [Queue; 2], to: [usize; 2], wait: Wait) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || pump(&ends, to, wait, &stopped));
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

fn pump(ends: &[Queue; 2], to: [usize; 2], wait: Wait, stop: &AtomicBool) {
    let mut buffer = vec![0; FRAME_MAX];
    let mut fds =
        [PollFd::new(ends[0].as_fd(), PollFlags::POLLIN), PollFd::new(ends[1].as_fd(), PollFlags::POLLIN)];
    while !stop.load(Ordering::Relaxed) {
        poll(&mut fds, PollTimeout::from(50_u8)).unwrap();
        for (from, to) in to.into_iter().enumerate() {
            if !fds[from].any().unwrap_or(true) {
                continue;
            }
            // The queue is not blocking: reading an empty one is an error.
            while let Ok(length) = ends[from].recv(&mut buffer) {
                // A frame that is refused is lost, as on any wire.
                let _ = ends[to].send(&buffer[..length]);
                if matches!(wait, Wait::EachFrame) || stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        }
    }
}
