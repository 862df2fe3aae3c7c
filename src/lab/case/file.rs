//! The file as a whole: the case, its controls and its sweep, each read from its own version of the document.

use std::collections::HashSet;

use crate::config::ConfigError;
use crate::config::reader::{Table, Value, rearranged};
use crate::lab::case::expect::{read_expectation, read_expectations};
use crate::lab::case::explain::{Explanation, read_explanation};
use crate::lab::case::network::read_network;
use crate::lab::case::traffic::read_traffic;
use crate::lab::case::{Case, DEFAULT_SETTLE, Run, Sweep, Trial, overlay};

/// Maximum number of values of a sweep: each needs a network of its own.
const SWEEP: i64 = 200;

/// The content of one version of the document.
struct Version {
    name: Option<String>,
    title: String,
    story: String,
    explain: Option<Explanation>,
    seed: u64,
    control: Option<String>,
    range: Option<(i64, i64)>,
    sweep: Option<Sweep>,
    run: Run,
    expect: Vec<crate::lab::check::Expectation>,
}

pub(super) fn read_case(text: &str, file: &str, name: &str) -> Result<Case, ConfigError> {
    let controls = overlay::controls(toml::de::DeTable::parse_recoverable(text).0.get_ref());
    let mut problems = Vec::new();
    let mut trials = Vec::new();
    let mut about = None;
    for control in std::iter::once(None).chain((0..controls).map(Some)) {
        match read_trial(text, file, control) {
            Ok((version, runs)) => {
                let Version { control, sweep, expect, .. } = version;
                trials.push(Trial { control, runs, sweep, expect });
                about.get_or_insert((
                    version.name,
                    version.title,
                    version.story,
                    version.explain,
                    version.seed,
                ));
            }
            Err(error) => problems.extend(error.problems),
        }
    }
    let Some((own_name, title, story, explain, seed)) = about.filter(|_| problems.is_empty()) else {
        // A problem of the case is also found in each of its controls.
        let mut known = HashSet::new();
        problems.retain(|problem| known.insert(problem.clone()));
        problems.sort_by_key(|problem| problem.place);
        return Err(ConfigError { problems });
    };
    Ok(Case { name: own_name.unwrap_or_else(|| name.to_owned()), title, story, explain, seed, trials })
}

/// The case or a control, and its runs.
fn read_trial(text: &str, file: &str, control: Option<usize>) -> Result<(Version, Vec<Run>), ConfigError> {
    let read = |text: &str| {
        rearranged(
            text,
            file,
            |document| overlay::apply(document, control),
            |root| read_version(root, control.is_some()),
        )
    };
    let first = variable(text, control)
        .map_or_else(|| text.to_owned(), |(name, from)| overlay::substitute(text, &name, from));
    let mut version = read(&first)?;
    let Some((from, to)) = version.range else {
        let runs = vec![version.run.clone()];
        return Ok((version, runs));
    };
    let mut runs = Vec::new();
    let name = version.sweep.as_ref().map(|sweep| sweep.variable.clone()).unwrap_or_default();
    for value in from..=to {
        let run = read(&overlay::substitute(text, &name, value))?.run;
        runs.push(Run { value: Some(value), ..run });
    }
    version.run.value = Some(from);
    Ok((version, runs))
}

/// The name and first value of the sweep's variable, as far as they can be told before the document is checked.
fn variable(text: &str, control: Option<usize>) -> Option<(String, i64)> {
    let (mut document, _) = toml::de::DeTable::parse_recoverable(text);
    overlay::apply(document.get_mut(), control);
    let sweep = document.get_ref().get("sweep")?.get_ref().as_table()?.clone();
    let name = sweep.get("variable")?.get_ref().as_str()?.to_owned();
    let from = sweep.get("from")?.get_ref().as_integer()?.as_str().parse().ok()?;
    Some((name, from))
}

fn read_version(root: &mut Table<'_>, is_control: bool) -> Option<Version> {
    let name = root.value("name").and_then(|value| value.text()).map(str::to_owned);
    let title = root.required("title", "\"30 % loss on egress\"").and_then(|value| value.text());
    let story = root.value("story").and_then(|value| value.text()).unwrap_or_default().trim().to_owned();
    let explain = read_explanation(root);
    let seed = root.integer("seed", 0..=u64::MAX).unwrap_or(1);
    let control = root.value("control").and_then(|value| control_name(&value, is_control));
    let (range, sweep) = read_sweep(root).unzip();
    let network = read_network(root);
    let traffic = read_traffic(root, &network.hosts);
    let expect = read_expectations(root);
    if root.value("traffic").is_none() {
        root.problem("there is no traffic", "write a [[traffic]] for each thing that is sent");
    }
    if root.value("expect").is_none() {
        root.problem(
            "nothing is expected, so nothing can fail",
            "write an [[expect]], and one for each [[control]]",
        );
    }
    let settle = root.quantity("settle").unwrap_or(DEFAULT_SETTLE);
    let run = Run { value: None, network, traffic, settle };
    Some(Version { name, title: title?.to_owned(), story, explain, seed, control, range, sweep, run, expect })
}

/// After the document has been made that of a control, only the control's name is left of it.
fn control_name(value: &Value<'_>, is_control: bool) -> Option<String> {
    if !is_control {
        value.problem("controls are an array", "write [[control]]");
        return None;
    }
    let mut table = value.table()?;
    let name = table.required("name", "\"no loss\"").and_then(|value| value.text()).map(str::to_owned);
    table.finish();
    name
}

/// `[sweep]`: the range, and when a run counts as working.
fn read_sweep(root: &mut Table<'_>) -> Option<((i64, i64), Sweep)> {
    let mut table = root.value("sweep")?.table()?;
    let variable = table.required("variable", "\"mtu\"").and_then(|value| value.text());
    let ends =
        ["from", "to"].map(|key| table.required(key, "120").and_then(|value| value.integer(0..=1_i64 << 40)));
    let works =
        table.required("works", "{ see = \"traffic.get.outcome\", equals = \"ok\" }").and_then(|value| {
            let mut table = value.table()?;
            let works = read_expectation(&mut table);
            table.finish();
            works
        });
    let range = match ends {
        [Some(from), Some(to)] if from < to && to - from < SWEEP => Some((from, to)),
        [Some(_), Some(_)] => {
            table.problem("the range is empty or too long", format!("from < to, at most {SWEEP} values"));
            None
        }
        _ => None,
    };
    table.finish();
    Some((range?, Sweep { variable: variable?.to_owned(), works: works? }))
}
