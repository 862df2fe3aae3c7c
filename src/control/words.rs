//! Words of tc-netem with everything that may follow them, as the value of a key: `loss=gemodel 1% 10%`.

use crate::config::spec;
use crate::pipeline::impair::NetemParams;
use crate::pipeline::params::{ImpairmentParams, Select, Trigger};

/// The words that can be replaced, each with its model, correlation and distribution.
pub(super) const WORDS: [&str; 5] = ["loss", "delay", "duplicate", "corrupt", "slot"];

/// Replaces what `word` said by `word` with `text`; nothing else changes.
pub(super) fn say(netem: &mut NetemParams, word: &str, text: &str) -> Result<(), String> {
    let wrong = || format!("it is what stands behind {word} in a spec, and nothing else");
    let read = spec::parse(&format!("{word} {text}")).map_err(|error| error.to_string())?;
    let [stage] = &read.stages[..] else { return Err(wrong()) };
    let ImpairmentParams::Netem(said) = &stage.impairment else { return Err(wrong()) };
    let mut alone = NetemParams::default();
    put(&mut alone, said, word);
    // Anything else in the text would be lost.
    let is_alone =
        alone == **said && stage.select == Select::default() && stage.trigger == Trigger::default();
    if !is_alone || read.seed.is_some() {
        return Err(wrong());
    }
    put(netem, said, word);
    Ok(())
}

/// Takes the setting of one word from `said`.
fn put(netem: &mut NetemParams, said: &NetemParams, word: &str) {
    match word {
        "loss" => netem.loss.clone_from(&said.loss),
        "delay" => {
            netem.delay.clone_from(&said.delay);
            netem.delay_correlation = said.delay_correlation;
        }
        "duplicate" => netem.duplicate = said.duplicate,
        "corrupt" => netem.corrupt = said.corrupt,
        "slot" => netem.slot.clone_from(&said.slot),
        _ => {}
    }
}
