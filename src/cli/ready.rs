//! Reports to the process that started faultwire that it is ready, and ends together with it.

#![expect(
    unsafe_code,
    reason = "a descriptor given by its number can only be borrowed by an unsafe function"
)]

use std::fs::File;
use std::io::Write;
use std::os::fd::BorrowedFd;

use anyhow::Context;
use nix::libc::c_int;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, close, getppid};

/// The standard streams are not closed.
const STDERR: c_int = 2;

/// The receiver of this report, opened before devices and namespaces are created.
#[derive(Debug)]
pub(super) struct Ready {
    descriptor: Option<(c_int, File)>,
}

impl Ready {
    /// A report to descriptor `number`, if one is given.
    ///
    /// # Errors
    /// If it is not open.
    pub(super) fn new(number: Option<c_int>) -> anyhow::Result<Self> {
        let open = |number: c_int| {
            // SAFETY: the descriptor is only duplicated, which fails if it is not open; nothing has closed it since
            // the program started.
            let given = unsafe { BorrowedFd::borrow_raw(number) };
            let own = given.try_clone_to_owned().with_context(|| {
                format!(
                    "--ready-fd {number}: the descriptor is not open (start it as `faultwire ... {number}>FILE`)"
                )
            })?;
            anyhow::Ok((number, File::from(own)))
        };
        Ok(Self { descriptor: number.map(open).transpose()? })
    }

    /// Reports that packets are forwarded: to the descriptor, and to systemd if it asked.
    ///
    /// # Errors
    /// If the descriptor cannot be written to.
    pub(super) fn say(self) -> anyhow::Result<()> {
        if let Some((number, mut file)) = self.descriptor {
            let cannot = || format!("--ready-fd {number}: cannot write to the descriptor");
            file.write_all(b"ready\n").with_context(cannot)?;
            // A reader that waits for the end of the stream must not wait for the end of the run.
            if number > STDERR {
                close(number).context("--ready-fd")?;
            }
        }
        // Only systemd sets this socket, and it notices a missing report itself.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        Ok(())
    }
}

/// From now on SIGTERM is sent when the parent process ends. Returns whether `parent`, the original parent, has ended
/// already.
pub(super) fn die_with_parent(parent: Pid) -> nix::Result<bool> {
    prctl::set_pdeathsig(Signal::SIGTERM)?;
    // A parent that ended before the call sends no signal; its children have another parent then.
    Ok(getppid() != parent)
}
