//! The `faultwire` command.

fn main() -> std::process::ExitCode {
    faultwire::cli::main()
}
