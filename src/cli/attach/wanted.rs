//! The faults of an `attach` command line: from specs or from a file, with the selection of packets.

use crate::cli::args::Attach;
use crate::cli::faults::Faults;
use crate::cli::{kind, out, random_seed};
use crate::config::spec::Files;
use crate::config::{self, Aim, Kind, WireFile, expression};
use crate::engine::wire::WirePlan;
use crate::pipeline::params::{IcmpParams, Opened};
use crate::pipeline::time::Duration;

/// The faults for the device.
pub(super) struct Wanted {
    pub(super) plan: WirePlan,
    /// The packets at which all faults are aimed, including faults that are added later.
    pub(super) aim: Aim,
    /// When to end, if not by a signal.
    pub(super) duration: Option<Duration>,
}

impl Wanted {
    /// Reads the faults, and prints warnings.
    pub(super) fn read(args: &Attach) -> anyhow::Result<Self> {
        let (mut file, seed) = match &args.config {
            Some(path) => {
                let file = kind::load(path, Kind::Wire, config::parse_wire).map_err(anyhow::Error::msg)?;
                for warning in &file.warnings {
                    out::note_line(format_args!("warning: {warning}"));
                }
                let seed = args.seed.or(file.seed).unwrap_or_else(random_seed);
                (file, seed)
            }
            None => words(args)?,
        };
        if file.up.is_empty() && file.down.is_empty() && !args.dry_run {
            anyhow::bail!(
                "no faults: add --both, --up or --down, or --config FILE with some (--dry-run needs none)"
            );
        }
        let aim = aim(args)?;
        for stages in [&mut file.up, &mut file.down] {
            aim.narrow(stages).map_err(|stage| {
                anyhow::anyhow!(
                    "--match contradicts the conditions of the stage \"{stage}\", which would hit no packet: change one of the two"
                )
            })?;
        }
        let plan = WirePlan {
            up: file.up,
            down: file.down,
            seed,
            flows: file.flows,
            identity: args.identity.map(Into::into).or(file.identity).unwrap_or_default(),
            icmp: file.icmp,
            flow_cache: file.flow_cache && !args.no_flow_cache,
        };
        Ok(Self { plan, aim, duration: args.duration.or(file.duration) })
    }
}

/// The faults of `--up`, `--down` and `--both`.
fn words(args: &Attach) -> anyhow::Result<(WireFile, u64)> {
    let mode = args.mode.into();
    let files = if args.no_files { Files::Named } else { Files::Any };
    let [up, down, both] = [&args.up, &args.down, &args.both].map(Option::as_deref);
    let faults = Faults::parse(up, down, both, mode, files, args.select.is_some())?;
    let seed = faults.seed(args.seed);
    let file = WireFile {
        up: faults.up.stages,
        down: faults.down.stages,
        seed: None,
        flows: config::Plan::DEFAULT_FLOWS,
        flow_cache: true,
        identity: None,
        duration: None,
        icmp: IcmpParams::default(),
        warnings: Vec::new(),
    };
    Ok((file, seed))
}

/// The aim from `--match`, `--new` and `--established`.
fn aim(args: &Attach) -> anyhow::Result<Aim> {
    let select = args.select.as_deref().map(expression::parse).transpose();
    let select = select.map_err(|error| anyhow::anyhow!("--match: {error}"))?;
    let opened = match (args.new, args.established) {
        (true, _) => Some(Opened::After),
        (_, true) => Some(Opened::Before),
        _ => None,
    };
    Ok(Aim { select, opened })
}
