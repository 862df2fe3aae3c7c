//! The arguments of a word: numbers, times, rates, percentages and names, required or optional.

use std::ops::RangeInclusive;
use std::path::Path;

use crate::config::distribution;
use crate::config::reader::Integer;
use crate::config::spec::lexer::{Token, Tokens};
use crate::config::spec::words::at;
use crate::config::spec::{Files, SpecProblem, units};
use crate::pipeline::params::{
    Correlated, Distribution, GilbertElliott, LinkLayer, LossModel, MtuAction, NetemRate, Slot, SlotGap,
    StateLoss,
};
use crate::pipeline::units::{Probability, UnitError};

/// The unit in bits that corresponds to this one in bytes.
fn bits(written: &str) -> String {
    let number = written.len() - "bps".len();
    format!("{}bit", &written.to_lowercase()[..number])
}

/// The arguments of one word.
pub(in crate::config) struct Arguments<'t, 'a> {
    pub(super) word: &'t str,
    pub(super) tokens: &'t mut Tokens<'a>,
    /// Which files it may name.
    pub(super) files: Files,
}

impl<'a> Arguments<'_, 'a> {
    /// The path of a file, if files may be named.
    pub(in crate::config) fn file(&mut self, what: &str, example: &str) -> Result<Token<'a>, SpecProblem> {
        let token = self.tokens.next().ok_or_else(|| self.missing(what, example))?;
        if self.files == Files::Named {
            let (what, hint) = distribution::no_files(token.text);
            return Err(token.problem(what, hint));
        }
        Ok(token)
    }
}

impl Arguments<'_, '_> {
    /// A required value; `what` and `example` describe it.
    pub(in crate::config) fn required<T>(
        &mut self,
        parse: impl Fn(&str) -> Result<T, UnitError>,
        what: &str,
        example: &str,
    ) -> Result<T, SpecProblem> {
        match self.optional(parse)? {
            Some(value) => Ok(value),
            None => Err(self.missing(what, example)),
        }
    }

    /// An optional value.
    pub(in crate::config) fn optional<T>(
        &mut self,
        parse: impl Fn(&str) -> Result<T, UnitError>,
    ) -> Result<Option<T>, SpecProblem> {
        let Some(token) = self.tokens.next_number() else { return Ok(None) };
        parse(token.text).map(Some).map_err(|error| at(&token, error.what, error.hint))
    }

    /// The problem that a required `what` is missing.
    pub(in crate::config) fn missing(&self, what: &str, example: &str) -> SpecProblem {
        let at = self.tokens.peek().map_or_else(|| self.tokens.end(), |token| token.at.clone());
        SpecProblem {
            at,
            what: format!("\"{}\" needs {what}", self.word),
            hint: format!("as in \"{example}\""),
        }
    }

    fn integer<T: Integer>(
        &mut self,
        range: RangeInclusive<T>,
        example: &str,
    ) -> Result<Option<T>, SpecProblem> {
        let Some(token) = self.tokens.next_number() else { return Ok(None) };
        let Ok(number) = token.text.parse::<i128>() else {
            return Err(at(
                &token,
                format!("\"{}\" is not a whole number", token.text),
                format!("as in \"{example}\""),
            ));
        };
        let fits = T::try_from(number).ok().filter(|number| range.contains(number));
        fits.map(Some).ok_or_else(|| {
            let hint = format!("allowed: {} to {}", range.start(), range.end());
            at(&token, format!("\"{}\" is out of range", token.text), hint)
        })
    }

    /// A required whole number.
    pub(in crate::config) fn count<T: Integer>(
        &mut self,
        range: RangeInclusive<T>,
        example: &str,
    ) -> Result<T, SpecProblem> {
        match self.integer(range, example)? {
            Some(number) => Ok(number),
            None => Err(self.missing("a whole number", example)),
        }
    }

    /// A count or a size of at least 1 that fits into 32 bits.
    pub(super) fn size(&mut self, example: &str) -> Result<u64, SpecProblem> {
        let Some(token) = self.tokens.next_number() else {
            return Err(self.missing("a whole number", example));
        };
        let size = units::size(token.text).map_err(|error| at(&token, error.what, error.hint))?;
        let most = u64::from(u32::MAX);
        if !(1..=most).contains(&size) {
            let what = format!("\"{}\" is out of range", token.text);
            return Err(at(&token, what, format!("allowed: 1 to {most}")));
        }
        Ok(size)
    }

    /// Takes the next word if it is `word`.
    pub(in crate::config) fn flag(&mut self, word: &str) -> bool {
        let there = self.tokens.peek().is_some_and(|token| token.text == word);
        if there {
            self.tokens.next();
        }
        there
    }

    /// `ethernet` or `ip`.
    pub(super) fn link_layer(&mut self) -> Result<LinkLayer, SpecProblem> {
        if self.flag("ethernet") {
            return Ok(LinkLayer::Ethernet);
        }
        if self.flag("ip") {
            return Ok(LinkLayer::Ip);
        }
        Err(self.missing("ethernet or ip", "linklayer ip"))
    }

    pub(super) fn correlated(&mut self) -> Result<Correlated, SpecProblem> {
        let example = format!("{} 1%", self.word);
        let probability = self.required(units::percent, "a percentage", &example)?;
        Ok(Correlated { probability, correlation: self.optional(units::percent)?.unwrap_or_default() })
    }

    pub(super) fn loss(&mut self) -> Result<LossModel, SpecProblem> {
        if self.flag("state") {
            return Ok(LossModel::State(self.state()?));
        }
        if self.flag("gemodel") {
            return Ok(LossModel::GilbertElliott(self.gemodel()?));
        }
        self.flag("random");
        Ok(LossModel::Random(self.correlated()?))
    }

    /// `P13 [P31 [P32 [P23 [P14]]]]`, with tc's defaults.
    fn state(&mut self) -> Result<StateLoss, SpecProblem> {
        let start = self.place();
        let p13 = self.required(units::percent, "the probability of a burst", "loss state 1% 30%")?;
        let p31 = self.optional(units::percent)?.unwrap_or_else(|| p13.complement());
        let p32 = self.optional(units::percent)?.unwrap_or(Probability::ZERO);
        let p23 = self.optional(units::percent)?.unwrap_or(Probability::ONE);
        let p14 = self.optional(units::percent)?.unwrap_or(Probability::ZERO);
        for (one, other, names) in [(p13, p14, "p13 and p14"), (p31, p32, "p31 and p32")] {
            if one.as_f64() + other.as_f64() > 1.0 + 1e-9 {
                let what = format!("{names} are {one} and {other}, together more than 100%");
                let hint = "both leave the same state; write P13 P31 P32 P23 P14".to_owned();
                return Err(SpecProblem { at: start..self.place(), what, hint });
            }
        }
        Ok(StateLoss { p13, p31, p32, p23, p14 })
    }

    /// `P [R [1-H [1-K]]]`, with tc's defaults.
    fn gemodel(&mut self) -> Result<GilbertElliott, SpecProblem> {
        let p = self.required(units::percent, "the probability to turn bad", "loss gemodel 1% 10%")?;
        let r = self.optional(units::percent)?.unwrap_or_else(|| p.complement());
        let bad = self.optional(units::percent)?.unwrap_or(Probability::ONE);
        let good = self.optional(units::percent)?.unwrap_or(Probability::ZERO);
        Ok(GilbertElliott { p, r, bad, good })
    }

    /// The position where the next token begins.
    pub(super) fn place(&self) -> usize {
        self.tokens.peek().map_or_else(|| self.tokens.end().start, |token| token.at.start)
    }

    /// And what to warn of.
    pub(super) fn rate(&mut self, warning: &mut Option<String>) -> Result<NetemRate, SpecProblem> {
        const EXAMPLE: &str = "rate 1mbit 20 48 5";
        let written = self.tokens.peek().map(|token| token.text.to_owned());
        let rate = self.required(units::rate, "a rate", "rate 10mbit")?;
        let written = written.filter(|written| units::is_in_bytes(written));
        *warning = written.map(|written| {
            format!("rate {written} is bytes a second in tc, {rate}; bits are written \"{}\"", bits(&written))
        });
        let packet_overhead = self.integer(-65_535..=65_535, EXAMPLE)?.unwrap_or(0);
        let cell_size = self.integer(0..=65_535, EXAMPLE)?.unwrap_or(0);
        let cell_overhead = self.integer(-65_535..=65_535, EXAMPLE)?.unwrap_or(0);
        Ok(NetemRate { rate, packet_overhead, cell_size, cell_overhead })
    }

    /// `MIN [MAX]` or `distribution NAME DELAY JITTER`, then `[packets N] [bytes N]`.
    pub(super) fn slot(&mut self) -> Result<Slot, SpecProblem> {
        const EXAMPLE: &str = "slot 800us 10ms packets 5";
        let gap = if self.flag("distribution") {
            let shape = self.distribution()?;
            let delay = self.required(units::time, "a mean time", "slot distribution normal 10ms 2ms")?;
            let jitter = self.required(units::time, "a jitter", "slot distribution normal 10ms 2ms")?;
            SlotGap::Distribution(shape, delay, jitter)
        } else {
            let start = self.place();
            let least = self.required(units::time, "a time", EXAMPLE)?;
            let most = self.optional(units::time)?.unwrap_or(least);
            if most < least {
                let what = format!("the longest gap, {most}, is less than the shortest, {least}");
                return Err(SpecProblem {
                    at: start..self.place(),
                    what,
                    hint: format!("as in \"{EXAMPLE}\""),
                });
            }
            SlotGap::Uniform(least, most)
        };
        let mut slot = Slot { gap, packets: None, bytes: None };
        loop {
            if slot.packets.is_none() && self.flag("packets") {
                slot.packets = Some(self.count(1..=u64::from(u32::MAX), EXAMPLE)?);
            } else if slot.bytes.is_none() && self.flag("bytes") {
                slot.bytes = Some(self.size(EXAMPLE)?);
            } else {
                return Ok(slot);
            }
        }
    }

    pub(super) fn distribution(&mut self) -> Result<Distribution, SpecProblem> {
        let Some(token) = self.tokens.next() else {
            return Err(self.missing("a name", "distribution normal"));
        };
        // A path in a spec is relative to the working directory.
        let base = (self.files == Files::Any).then(|| Path::new(""));
        distribution::find(token.text, base).map_err(|(what, hint)| at(&token, what, hint))
    }

    /// What happens to a packet above the MTU. In `mtu 1400 drop 1%` the second word is the loss of tc.
    pub(super) fn action(&mut self) -> MtuAction {
        if self.flag("icmp") {
            MtuAction::Icmp
        } else if self.flag("fragment") {
            MtuAction::Fragment
        } else {
            if !self.tokens.begins_loss(1) {
                self.flag("drop");
            }
            MtuAction::Drop
        }
    }
}
