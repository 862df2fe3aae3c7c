//! The stages that change and make TCP segments, in words.

use crate::config::impairment::OPTIONS;
use crate::pipeline::params::{TcpParams, WindowRewrite};

pub(super) fn tcp(params: &TcpParams) -> String {
    let mut parts = Vec::new();
    parts.extend(params.window.map(|window| match window {
        WindowRewrite::Set(0) => "window set to zero".to_owned(),
        WindowRewrite::Set(window) => format!("window field set to {window}"),
        WindowRewrite::Max(most) => format!("window field clamped to {most}"),
    }));
    if !params.strip.is_empty() {
        let name = |kind: &u8| OPTIONS.iter().find(|known| known.1 == *kind).map(|known| known.0);
        let names: Vec<&str> = params.strip.iter().filter_map(name).collect();
        parts.push(format!("{} replaced by NOPs", names.join(", ")));
    }
    parts.extend(
        params.window_scale.map(|scale| format!("window scale set to {scale} in every SYN that has one")),
    );
    parts.extend(params.bleach_ecn.then(|| "ECN field set to Not-ECT".to_owned()));
    parts.extend(params.refuse_ecn.then(|| "ECN neither offered nor accepted in SYNs".to_owned()));
    parts.extend(params.clear_urgent.then(|| "urgent data made ordinary".to_owned()));
    format!("tcp: {}", parts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_changed_is_said() {
        let params = TcpParams {
            window: Some(WindowRewrite::Max(100)),
            strip: vec![4, 5],
            window_scale: Some(2),
            bleach_ecn: true,
            refuse_ecn: true,
            clear_urgent: true,
        };
        assert_eq!(
            tcp(&params),
            "tcp: window field clamped to 100; sack-permitted, sack replaced by NOPs; window scale set to 2 in every SYN \
             that has one; ECN field set to Not-ECT; ECN neither offered nor accepted in SYNs; urgent data made ordinary"
        );
        let zero = TcpParams { window: Some(WindowRewrite::Set(0)), ..TcpParams::default() };
        assert_eq!(tcp(&zero), "tcp: window set to zero");
    }
}
