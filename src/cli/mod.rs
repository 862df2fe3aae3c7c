//! The commands.

/// Runs the command line and returns the exit code of the process.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}
