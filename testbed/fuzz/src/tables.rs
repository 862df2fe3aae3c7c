//! Files that a configuration names: traces, models, lists, distributions.

use std::io::Write as _;
use std::os::fd::AsRawFd;

use faultwire::config;
use faultwire::config::plan::Plan;
use faultwire::engine::network::router_params;
use faultwire::pipeline::router::Router;
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::input::sum;

/// Stages whose content is a file, `FILE`.
const READERS: [&str; 9] = [
    r#"{ type = "rate", trace = "FILE" }"#,
    r#"{ type = "rate", trace = "FILE", repeat = false }"#,
    r#"{ type = "delay", model = "FILE" }"#,
    r#"{ type = "loss", model = "FILE" }"#,
    r#"{ type = "duplicate", model = "FILE" }"#,
    r#"{ type = "loss", list = "FILE" }"#,
    r#"{ type = "replay", file = "FILE" }"#,
    r#"{ type = "delay", delay = "10ms", jitter = "1ms", distribution = "FILE" }"#,
    r#"{ type = "netem", spec = "delay 10ms 2ms distribution FILE" }"#,
];

/// The bytes are the file.
pub(crate) fn run(bytes: &[u8]) {
    let stage = READERS[sum(bytes) % READERS.len()];
    // A file that is in memory alone, so that a fuzzer can run as fast as it can.
    let file = memfd_create(c"fuzz", MFdFlags::empty()).unwrap();
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let mut file = std::fs::File::from(file);
    file.write_all(bytes).unwrap();
    let text = format!(
        "[[port]]\nname = \"a\"\naddresses = \"10.0.1.2/24\"\n[[port]]\nname = \"b\"\naddresses = \"10.0.2.2/24\"\n\
         [[path]]\nfrom = \"a\"\nto = \"b\"\nstage = [{}]\n",
        stage.replace("FILE", &path)
    );
    match config::parse(&text, "fuzz.toml") {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(plan) => build(&plan),
    }
}

/// What was read can be used.
fn build(plan: &Plan) {
    let params = router_params(plan, 7);
    drop(Router::new(&params, &Router::shared(&params)));
}
