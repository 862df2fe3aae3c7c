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
