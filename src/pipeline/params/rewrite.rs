//! Parameters of the stages that change and make TCP segments.

/// See [`crate::pipeline::params::ImpairmentParams::Tcp`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TcpParams {
    /// What becomes of the window.
    pub window: Option<WindowRewrite>,
    /// Kinds of the options that become "no operation", each once.
    pub strip: Vec<u8>,
    /// Value of the window scale option of segments with SYN, 0 to 14 (RFC 7323 section 2.3).
    pub window_scale: Option<u8>,
    /// The ECN field of the IP header becomes Not-ECT, of any transport.
    pub bleach_ecn: bool,
    /// Segments with SYN offer and accept no ECN.
    pub refuse_ecn: bool,
    /// No data is urgent.
    pub clear_urgent: bool,
}

/// What becomes of the window field of a segment, in the units of the field: shifted left by the window scale of the
/// connection these are bytes (RFC 7323 section 2.3); in a segment with SYN they are bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowRewrite {
    /// It is this.
    Set(u16),
    /// It is at most this.
    Max(u16),
}

/// See [`crate::pipeline::params::ImpairmentParams::Inject`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InjectParams {
    /// What is forged.
    pub kind: Injected,
    /// To whom it goes.
    pub to: InjectTo,
    /// How often, at least 1.
    pub count: u32,
}

/// A segment that is forged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Injected {
    /// A reset.
    Rst(RstSequence),
    /// The acknowledgement of a segment once more, without data.
    DuplicateAck,
}

/// The sequence number of a forged reset, seen from the next byte that its receiver should expect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RstSequence {
    /// That byte: the reset counts (RFC 9293 section 3.5.2).
    Exact,
    /// So many bytes above: within the window a challenge ACK answers it (RFC 5961 section 3.2).
    InWindow(u32),
    /// So many bytes below: it is discarded.
    Stale(u32),
}

/// Whom a forged segment goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InjectTo {
    /// The receiver of the packet, as if from its sender; behind the packet, by the same path.
    #[default]
    Receiver,
    /// The sender of the packet, as if from its receiver; at once, as the router's own answers go.
    Sender,
}
