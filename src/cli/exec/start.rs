//! Starting the command.

#![expect(unsafe_code, reason = "what a child does before the command is given to it by an unsafe function")]

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command};

use anyhow::Context;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{getpid, getppid};

use crate::cli::args::Exec;
use crate::cli::exec::{around, outside};
use crate::control::VARIABLE;
use crate::net::Netns;
use crate::net::files::OpenFiles;
use crate::net::netns::Stay;

/// The environment of a command.
pub(super) struct Surroundings {
    pub(super) variables: Vec<(&'static str, String)>,
    /// The control socket of this instance.
    pub(super) socket: Option<PathBuf>,
    pub(super) resolv_conf: Option<String>,
    /// The limit of open files, if it was raised.
    pub(super) files: Option<OpenFiles>,
}

/// The command, or the user's shell.
pub(super) fn program(args: &Exec) -> OsString {
    let shell = || std::env::var_os("SHELL").filter(|shell| !shell.is_empty());
    args.command.first().cloned().or_else(shell).unwrap_or_else(|| "/bin/sh".into())
}

/// Starts the command inside; the inner error is the command's. If faultwire ends without waiting for the command (by
/// SIGKILL), the command gets SIGTERM, since its network is gone then. The second part of the result must be kept
/// while the command runs.
pub(super) fn spawn(
    args: &Exec,
    inner: &Netns,
    around_it: Surroundings,
) -> anyhow::Result<(io::Result<Child>, Stay)> {
    let mut command = Command::new(program(args));
    command.args(args.command.iter().skip(1)).env_remove(around::ROOM).envs(around_it.variables);
    // It must never be the surrounding instance.
    command.env_remove(VARIABLE);
    if let Some(socket) = around_it.socket {
        command.env(VARIABLE, socket);
    }
    let (parent, files) = (getpid(), around_it.files);
    let with_faultwire = move || {
        // The signals that faultwire reads must not be blocked in the command. They stay blocked in the thread that
        // starts it, which continues to run: otherwise this thread could take a SIGCHLD, which would be lost.
        SigSet::empty().thread_set_mask()?;
        files.map_or(Ok(()), OpenFiles::restore)?;
        set_pdeathsig(Signal::SIGTERM)?;
        // faultwire ended before this call.
        if getppid() == parent { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    };
    // SAFETY: the closure makes system calls only, and allocates nothing.
    unsafe { command.pre_exec(with_faultwire) };
    // A child starts in the namespaces of the thread that starts it.
    let start = move || {
        if let Some(text) = &around_it.resolv_conf {
            outside::cover_resolv_conf(text).context(
                "the command cannot get a resolv.conf of its own, and would not find the host's nameserver",
            )?;
        }
        anyhow::Ok(command.spawn())
    };
    let (spawned, stay) = inner.run_and_stay(start)?;
    Ok((spawned?, stay))
}
