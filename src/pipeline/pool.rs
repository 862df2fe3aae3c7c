//! Packet buffers, recycled: after warming up, taking and returning a buffer allocates nothing.
//!
//! There are two kinds of buffers. A *scratch* buffer has room for the largest packet that a device can hand over;
//! devices read into it. *Fitted* buffers hold packets that wait, in size classes 16 bytes apart, so that a held
//! packet costs little more than its bytes. Each class has a free list.
//!
//! Free buffers are returned to the system when they are not needed. While the free buffers together have more bytes
//! than [`SPARE`] plus an eighth of what is in use, the classes are visited in turn, one with each buffer that is
//! taken. A class that had spare buffers ever since its last visit gives these up, a few with each buffer that is
//! taken. So memory follows what is held after two rounds of some 4,100 packets each, and buffers that are needed
//! again within a round are never given up.

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

/// Bytes of free buffers that are kept in any case.
pub const SPARE: usize = 1 << 20;
/// Buffers given up with each one that is taken: more than are made, so that memory falls.
const GIVEN_UP: usize = 4;
/// The number of classes: those of fitted buffers, and the class of scratch buffers after them.
const CLASSES: usize = SCRATCH / STEP + 3;
const SCRATCH_CLASS: usize = CLASSES - 1;

/// The buffers of one worker.
#[derive(Debug)]
pub struct Pool {
    /// Class `i` has buffers of `i * STEP + 8` bytes; the last class has scratch buffers.
    classes: Vec<Class>,
    /// Bytes of all free buffers.
    free: usize,
    /// Bytes of all buffers that are in use.
    used: usize,
    /// The class to visit next.
    hand: usize,
    /// How many buffers this class still has to give up.
    surplus: usize,
}

#[derive(Debug, Default)]
struct Class {
    free: Vec<Buffer>,
    /// The fewest free buffers since the last visit.
    spare: usize,
}

impl Default for Pool {
    fn default() -> Self {
        Self::new()
    }
}

impl Pool {
    /// An empty pool: buffers are made when first asked for.
    pub fn new() -> Self {
        let classes = std::iter::repeat_with(Class::default).take(CLASSES).collect();
        Self { classes, free: 0, used: 0, hand: 0, surplus: 0 }
    }

    /// A buffer for the largest packet. Its content is arbitrary.
    pub fn scratch(&mut self) -> Buffer {
        self.take(SCRATCH_CLASS, SCRATCH)
    }

    /// A buffer for headroom and a packet of `length` bytes, at most 16 bytes too large. Its content is arbitrary.
    #[inline]
    pub fn fitted(&mut self, length: usize) -> Buffer {
        let class = (length.min(MAX_PACKET) + HEADROOM).saturating_sub(8).div_ceil(STEP);
        self.take(class, class * STEP + 8)
    }

    /// Takes a buffer back. Empty ones (whose memory has gone with their packet) are ignored.
    #[inline]
    pub fn give(&mut self, buffer: Buffer) {
        let length = buffer.len();
        let class = match length {
            0 => return,
            SCRATCH => SCRATCH_CLASS,
            length => (length - 8) / STEP,
        };
        // A buffer may come from another pool, or from none.
        self.used = self.used.saturating_sub(length);
        self.free += length;
        self.classes[class].free.push(buffer);
    }

    /// Bytes of all buffers of the pool, in use and free.
    pub const fn bytes(&self) -> usize {
        self.free + self.used
    }

    #[inline]
    fn take(&mut self, class: usize, length: usize) -> Buffer {
        if self.free > self.used / 8 + SPARE {
            self.give_up();
        }
        self.used += length;
        let class = &mut self.classes[class];
        match class.free.pop() {
            Some(buffer) => {
                self.free -= length;
                class.spare = class.spare.min(class.free.len());
                buffer
            }
            None => vec![0; length].into_boxed_slice(),
        }
    }

    /// Gives a part of the surplus of a class back to the system, or visits the next class.
    #[cold]
    fn give_up(&mut self) {
        let class = &mut self.classes[self.hand];
        if self.surplus == 0 {
            self.surplus = class.spare;
            class.spare = class.free.len();
        }
        for _ in 0..GIVEN_UP.min(self.surplus) {
            self.surplus -= 1;
            self.free -= class.free.pop().map_or(0, |buffer| buffer.len());
        }
        class.spare = class.spare.min(class.free.len());
        if class.free.is_empty() && class.free.capacity() > 0 {
            class.free = Vec::new();
        }
        if self.surplus == 0 {
            self.hand = (self.hand + 1) % CLASSES;
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

    /// Takes `count` buffers for packets of `length` bytes and gives them back.
    fn burst(pool: &mut Pool, length: usize, count: usize) -> usize {
        let held: Vec<Buffer> = (0..count).map(|_| pool.fitted(length)).collect();
        let most = pool.bytes();
        for buffer in held {
            pool.give(buffer);
        }
        most
    }

    /// Bursts of one size after the other cost what one burst does, not the sum of all.
    #[test]
    fn buffers_of_sizes_that_are_gone_are_given_back() {
        let mut pool = Pool::new();
        let held = |length: usize| 50_000 * (length + HEADROOM + STEP);
        let mut before = 0;
        for turn in 0..14 {
            let length = 100 * (turn + 1);
            let most = burst(&mut pool, length, 50_000);
            // What was there before goes faster than the new one comes, after a turn over the classes.
            let turns = 2 * CLASSES * (length + HEADROOM + STEP);
            let bound = before.max(held(length) * 9 / 8) + SPARE + turns;
            assert!(most <= bound, "{most} bytes for {} held, {before} before", held(length));
            before = held(length);
        }
        // Small traffic afterwards has the large memory given back.
        for _ in 0..20 * CLASSES {
            burst(&mut pool, 60, 10);
        }
        assert!(pool.bytes() <= 2 * held(60) / 5_000 + SPARE + 64, "{} bytes", pool.bytes());
        assert_eq!(pool.used, 0);
        let free: usize = pool.classes.iter().flat_map(|class| &class.free).map(|buffer| buffer.len()).sum();
        assert_eq!(free, pool.free);
    }

    /// What is needed again and again is kept, however much that is.
    #[test]
    fn bursts_that_repeat_make_no_new_buffers() {
        let mut pool = Pool::new();
        let lengths = [60, 576, 1_500];
        let turn = |pool: &mut Pool| lengths.map(|length| burst(pool, length, 1_000));
        for _ in 0..20 {
            turn(&mut pool);
        }
        let before = pool.bytes();
        for _ in 0..50 {
            turn(&mut pool);
            assert_eq!(pool.bytes(), before);
        }
        assert!(before > 2 * SPARE, "{before} bytes: the pool has reason to give some back");
    }
}
