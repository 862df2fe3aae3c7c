//! What is compared with what, and what each ratio means.

use crate::pump::Wait;
use crate::subject::{Stages, Subject};

/// One ratio that is measured: `subject` to `base`.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// What a reader may conclude from it.
    pub(crate) means: &'static str,
    pub(crate) subject: Subject,
    pub(crate) base: Subject,
    pub(crate) load: Load,
    pub(crate) target: Option<f64>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Load {
    /// Bytes a second of one TCP stream, by each congestion control.
    Tcp,
    /// 64-byte datagrams a second that reach the receiver's socket.
    Udp,
}

const IDLE: Subject = Subject::Router(Stages::Idle);
const PUMP: Subject = Subject::Pump(Wait::Empty);
const ONE_FRAME_PUMP: Subject = Subject::Pump(Wait::EachFrame);

pub(crate) const ROWS: [Row; 9] = [
    Row {
        name: "TCP, three idle stages / pump",
        means: "what parsing, routing and three stages cost a bulk transfer",
        subject: IDLE,
        base: PUMP,
        load: Load::Tcp,
        target: Some(0.97),
    },
    Row {
        name: "TCP, one-frame pump / pump",
        means: "what waiting after every frame costs: the base is the faster pump",
        subject: ONE_FRAME_PUMP,
        base: PUMP,
        load: Load::Tcp,
        target: None,
    },
    Row {
        name: "TCP, attached, three idle stages, no cache / attached pump",
        means: "the same for an attachment that shows every packet to its stages",
        subject: Subject::Attached,
        base: Subject::AttachedPump,
        load: Load::Tcp,
        target: Some(0.95),
    },
    Row {
        name: "64 B UDP, three idle stages / pump",
        means: "what they cost small packets, which come one by one",
        subject: IDLE,
        base: PUMP,
        load: Load::Udp,
        target: Some(1.4),
    },
    Row {
        name: "64 B UDP, one-frame pump / pump",
        means: "as for TCP",
        subject: ONE_FRAME_PUMP,
        base: PUMP,
        load: Load::Udp,
        target: None,
    },
    Row {
        name: "TCP, 0.01 % loss / three idle stages",
        means: "what the loss does to the sender: cubic slows down at each lost packet on any path, bbr hardly does",
        subject: Subject::Router(Stages::Loss),
        base: IDLE,
        load: Load::Tcp,
        target: None,
    },
    Row {
        name: "TCP, 10 ms each way / three idle stages",
        means: "what holding every packet costs; the window is larger than the path",
        subject: Subject::Router(Stages::Delay),
        base: IDLE,
        load: Load::Tcp,
        target: None,
    },
    Row {
        name: "TCP, timestamps and nat / three idle stages",
        means: "what rewriting both headers of every packet costs",
        subject: Subject::Router(Stages::Nat),
        base: IDLE,
        load: Load::Tcp,
        target: Some(0.8),
    },
    Row {
        name: "TCP, offload off / three idle stages",
        means: "what `offload = false` costs: the kernels hand over 1,500 bytes at a time instead of 64 KB",
        subject: Subject::Router(Stages::NoOffload),
        base: IDLE,
        load: Load::Tcp,
        target: None,
    },
];
