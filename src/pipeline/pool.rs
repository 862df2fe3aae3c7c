//! Packet buffers, recycled: after warming up, taking and giving back allocates nothing.
//!
//! Buffers come in two kinds. *Scratch* takes the largest packet that a device can hand over and is what devices read
//! into. *Fitted* buffers hold what must wait, in size classes 16 bytes apart, so that a held packet costs its bytes and
//! little more. Each class has a free list; memory is bounded by the most that was held at one time.

/// Bytes in front of the IP packet where the device layer puts its virtio header.
pub const HEADROOM: usize = 10;
/// Largest IP packet, trains included: IPv6 does not count its own header.
pub const MAX_PACKET: usize = 65_575;
/// Size of a scratch buffer.
pub const SCRATCH: usize = HEADROOM + MAX_PACKET + 1;
/// Classes end on 8 modulo 16: what the system allocator hands out without waste.
const STEP: usize = 16;

/// Bytes of a packet, owned.
pub type Buffer = Box<[u8]>;

/// The free buffers of one worker.
#[derive(Debug, Default)]
pub struct Pool {
    scratch: Vec<Buffer>,
    /// Free list of class `i`: buffers of `i * STEP + 8` bytes.
    fitted: Vec<Vec<Buffer>>,
}

impl Pool {
    /// An empty pool: buffers are made when first asked for.
    pub fn new() -> Self {
        let classes = SCRATCH / STEP + 2;
        Self { scratch: Vec::new(), fitted: std::iter::repeat_with(Vec::new).take(classes).collect() }
    }

    /// A buffer for the largest packet. Its content is arbitrary.
    pub fn scratch(&mut self) -> Buffer {
        self.scratch.pop().unwrap_or_else(|| vec![0; SCRATCH].into_boxed_slice())
    }

    /// A buffer for headroom and a packet of `length` bytes, at most 16 bytes too large. Its content is arbitrary.
    pub fn fitted(&mut self, length: usize) -> Buffer {
        let class = (length.min(MAX_PACKET) + HEADROOM).saturating_sub(8).div_ceil(STEP);
        self.fitted[class].pop().unwrap_or_else(|| vec![0; class * STEP + 8].into_boxed_slice())
    }

    /// Takes a buffer back. Empty ones (already taken from their packet) are let go.
    pub fn give(&mut self, buffer: Buffer) {
        match buffer.len() {
            0 => {}
            SCRATCH => self.scratch.push(buffer),
            length => self.fitted[(length - 8) / STEP].push(buffer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fitted_buffer_fits_tightly_and_is_recycled() {
        let mut pool = Pool::new();
        for length in [0, 1, 20, 40, 1500, 9000, MAX_PACKET] {
            let buffer = pool.fitted(length);
            assert!(
                buffer.len() >= length + HEADROOM && buffer.len() < length + HEADROOM + STEP + 8,
                "{length}"
            );
            let at = buffer.as_ptr();
            pool.give(buffer);
            let again = pool.fitted(length);
            assert_eq!(again.as_ptr(), at, "{length}");
        }
    }
}
