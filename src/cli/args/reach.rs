//! Values of `exec --reach` and `--faults-on`.

/// What a command reaches beside the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(in crate::cli) enum ReachName {
    /// All that the host reaches
    Internet,
    /// The networks that the host has routes to, without its default route
    HostNetworks,
}

/// Which traffic has faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(in crate::cli) enum FaultsOn {
    /// All of it
    All,
    /// Traffic with other hosts than this one
    Outside,
}
