//! Limits of a router's size. The readers of configurations refuse what is larger.

/// Ports of a router. Each takes a descriptor of every worker.
pub const PORTS: usize = 1_024;
/// Configured paths of a router, a link counted as two: with those of the ports, and those that the other direction of a
/// two-way stage adds, they fit the 16 bits in which a packet keeps its path.
pub const PATHS: usize = 16_384;
/// Stages of a path. A packet may nest a call for each stage, so the stack of a worker bounds them.
pub const STAGES: usize = 512;
/// Packets that one packet may become on a path on average. Copies of copies multiply: without a limit, 20 stages that copy
/// each packet once would make a million of it, and a stage behind them that delays would hold them all.
pub const GROWTH: f64 = 10_000.0;
/// Translators of a router.
pub const NATS: usize = 1_024;

const _: () = assert!(2 * PATHS + PORTS < u16::MAX as usize);
