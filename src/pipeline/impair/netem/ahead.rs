//! What the line will do to a flow's next packets.

use crate::pipeline::impair::netem::{Flow, Loss, Netem};
use crate::pipeline::router::quiet::{Ahead, Quiet};

impl Netem {
    /// How many of the flow's next packets are not hit, for a line that delays nothing. Draws with memory are
    /// computed ahead one by one.
    pub(super) fn look_ahead(&self, ahead: &Ahead) -> Quiet {
        if self.waits() {
            return Quiet::NO_MORE;
        }
        if self.has_memory() {
            return Quiet::packets(self.unharmed(ahead, Quiet::STEPS.into()).0);
        }
        let keys = &self.keys;
        let Loss::Random(loss) = &self.loss else { return Quiet::NO_MORE };
        [(&self.duplicate, keys.duplicate), (loss, keys.loss), (&self.corrupt, keys.corrupt)]
            .into_iter()
            .fold(Quiet::FOREVER, |quiet, (chance, key)| quiet.and(ahead.next_hit(chance.marginal(), key)))
    }

    /// Updates the flow's memory as if its next `count` packets, which are not hit, had come.
    pub(super) fn skip(&mut self, ahead: &Ahead, count: u64) {
        if self.has_memory() {
            let (_, memory) = self.unharmed(ahead, count);
            *self.flows.of(ahead.flow) = memory;
        }
    }

    /// How many of the flow's next packets, at most `most`, are not hit, and the flow's memory after them.
    fn unharmed(&self, ahead: &Ahead, most: u64) -> (u64, Flow) {
        let mut memory = self.flows.peek(ahead.flow);
        let stream = |key| ahead.stream(key);
        for count in 0..most {
            let (index, before) = (ahead.index + count, memory);
            let is_hit = self.duplicate.hit(stream(self.keys.duplicate), index, &mut memory.duplicate)
                || self.loss.hit(stream(self.keys.loss), index, &mut memory.loss)
                || self.corrupt.hit(stream(self.keys.corrupt), index, &mut memory.corrupt);
            if is_hit {
                return (count, before);
            }
        }
        (most, memory)
    }
}
