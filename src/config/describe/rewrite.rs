//! The stages that change and make TCP segments, in words.

use crate::config::impairment::OPTIONS;
use crate::pipeline::params::{InjectParams, InjectTo, Injected, RstSequence, TcpParams, WindowRewrite};

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

pub(super) fn inject(params: &InjectParams) -> String {
    let what = match params.kind {
        Injected::Rst(RstSequence::Exact) => "a RST with the next sequence number".to_owned(),
        Injected::Rst(RstSequence::InWindow(above)) => {
            format!("a RST {above} bytes above the next sequence number")
        }
        Injected::Rst(RstSequence::Stale(below)) => {
            format!("a RST {below} bytes below the next sequence number")
        }
        Injected::DuplicateAck => "its acknowledgement again, without data".to_owned(),
    };
    let times = if params.count == 1 { String::new() } else { format!(", {} times", params.count) };
    let to = match params.to {
        InjectTo::Receiver => "behind each segment to its receiver",
        InjectTo::Sender => "at each segment back to its sender",
    };
    format!("inject {to}: {what}{times}")
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

    #[test]
    fn what_is_forged_and_for_whom_is_said() {
        let rst = Injected::Rst(RstSequence::Stale(7));
        assert_eq!(
            inject(&InjectParams { kind: rst, to: InjectTo::Sender, count: 2 }),
            "inject at each segment back to its sender: a RST 7 bytes below the next sequence number, 2 times"
        );
        assert_eq!(
            inject(&InjectParams { kind: Injected::DuplicateAck, to: InjectTo::Receiver, count: 1 }),
            "inject behind each segment to its receiver: its acknowledgement again, without data"
        );
    }
}
