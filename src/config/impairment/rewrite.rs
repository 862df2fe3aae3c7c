//! The keys of the stages that change and make TCP segments.

use crate::config::reader::{Table, Value};
use crate::pipeline::impair::STRIPPABLE;
use crate::pipeline::params::{
    ImpairmentParams, InjectParams, InjectTo, Injected, RstSequence, TcpParams, Trigger, WindowRewrite,
};
use crate::pipeline::wire::tcp::option;

/// The keys of a `tcp` stage; at least one is required.
pub(super) fn tcp(table: &mut Table<'_>, _trigger: &Trigger) -> Option<ImpairmentParams> {
    let window = window(table);
    let strip = table.value("strip");
    let window_scale = table.value("window_scale");
    let ecn = table.value("ecn");
    let negotiation = table.value("ecn_negotiation");
    let urgent = table.value("urgent");
    let given = [&strip, &window_scale, &ecn, &negotiation, &urgent].iter().any(|value| value.is_some());
    if !given && matches!(window, Ok(None)) {
        table.problem(
            "asks for nothing",
            "write window, window_max, strip, window_scale, ecn, ecn_negotiation or urgent",
        );
        return None;
    }
    let strip = strip.map_or(Some(Vec::new()), |value| kinds(&value));
    if let (Some(value), Some(strip)) = (&window_scale, &strip)
        && strip.contains(&option::WINDOW_SCALE)
    {
        value.problem("the option is stripped", "remove window_scale, or \"window-scale\" from strip");
    }
    let window_scale = window_scale.map_or(Some(None), |value| value.integer(0..=14).map(Some));
    let only = |value: Option<Value<'_>>, word: &str| {
        value.map_or(Some(false), |value| value.choice(&[(word, true)]))
    };
    let (bleach_ecn, refuse_ecn) = (only(ecn, "bleach"), only(negotiation, "strip"));
    let clear_urgent = only(urgent, "clear");
    Some(ImpairmentParams::Tcp(TcpParams {
        window: window.ok()?,
        strip: strip?,
        window_scale: window_scale?,
        bleach_ecn: bleach_ecn?,
        refuse_ecn: refuse_ecn?,
        clear_urgent: clear_urgent?,
    }))
}

/// `window` or `window_max`; an error if one of them is wrong, which has been reported.
fn window(table: &mut Table<'_>) -> Result<Option<WindowRewrite>, ()> {
    let (set, most) = (table.value("window"), table.value("window_max"));
    let number = |value: &Value<'_>| value.integer(0..=u16::MAX).ok_or(());
    match (set, most) {
        (Some(_), Some(most)) => {
            most.problem("window sets it already", "remove window or window_max");
            Err(())
        }
        (Some(set), None) => Ok(Some(WindowRewrite::Set(number(&set)?))),
        (None, Some(most)) => Ok(Some(WindowRewrite::Max(number(&most)?))),
        (None, None) => Ok(None),
    }
}

/// One option or several, each only once.
fn kinds(value: &Value<'_>) -> Option<Vec<u8>> {
    let items = value.one_or_more();
    if items.is_empty() {
        value.problem("names no option", "try [\"sack-permitted\"]");
        return None;
    }
    let read: Vec<Option<u8>> = items.iter().map(|item| item.choice(STRIPPABLE)).collect();
    let mut kinds: Vec<u8> = read.into_iter().collect::<Option<_>>()?;
    kinds.sort_unstable();
    kinds.dedup();
    Some(kinds)
}

/// Default for how many bytes a reset in the window is above the next sequence number: less than any open window.
const ABOVE: u32 = 1_000;
/// Default for how many bytes a stale reset is below it: more than is received before it is acknowledged.
const BELOW: u32 = 1_000_000;

/// What `sequence` of an injected reset can be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Exact,
    InWindow,
    Stale,
}

/// `kind`, `to`, `count`, `sequence` and `distance`.
pub(super) fn inject(table: &mut Table<'_>, _trigger: &Trigger) -> Option<ImpairmentParams> {
    forgery(table).map(ImpairmentParams::Inject)
}

fn forgery(table: &mut Table<'_>) -> Option<InjectParams> {
    const PLACES: &[(&str, Place)] =
        &[("exact", Place::Exact), ("in-window", Place::InWindow), ("stale", Place::Stale)];
    let is_rst = table
        .required("kind", "\"rst\"")
        .and_then(|value| value.choice(&[("rst", true), ("dup-ack", false)]));
    let (to, sequence, distance) = (table.value("to"), table.value("sequence"), table.value("distance"));
    let count = table.value("count").map(|value| value.integer(1..=1_000));
    let is_rst = is_rst?;
    let default = if is_rst { 1 } else { 3 };
    let way = to.as_ref().map_or(Some(InjectTo::Receiver), |value| {
        value.choice(&[("receiver", InjectTo::Receiver), ("sender", InjectTo::Sender)])
    });
    if !is_rst {
        for value in [&sequence, &distance].into_iter().flatten() {
            value.problem("only a reset has it", "remove it");
        }
        if let (Some(value), Some(InjectTo::Sender)) = (&to, way) {
            value.problem(
                "a duplicate ACK goes the way of the ACK that it repeats",
                "put the stage into the path of the ACKs",
            );
        }
        return Some(InjectParams {
            kind: Injected::DuplicateAck,
            to: way?,
            count: count.unwrap_or(Some(default))?,
        });
    }
    let place = sequence.map_or(Some(Place::Exact), |value| value.choice(PLACES));
    if let (Some(value), Some(Place::Exact)) = (&distance, place) {
        value.problem("an exact reset has none", "write sequence = \"in-window\" or \"stale\", or remove it");
    }
    // Beyond half of the sequence space, "above" means below.
    let distance = distance.map(|value| value.integer(1..=(1 << 30)));
    let place = match place? {
        Place::Exact => RstSequence::Exact,
        Place::InWindow => RstSequence::InWindow(distance.unwrap_or(Some(ABOVE))?),
        Place::Stale => RstSequence::Stale(distance.unwrap_or(Some(BELOW))?),
    };
    Some(InjectParams { kind: Injected::Rst(place), to: way?, count: count.unwrap_or(Some(default))? })
}

#[cfg(test)]
mod tests {
    use crate::config::reader::document;
    use crate::config::{SeatDraft, read_seats};
    use crate::pipeline::params::{
        ImpairmentParams, InjectParams, InjectTo, Injected, RstSequence, TcpParams, WindowRewrite,
    };

    fn read(keys: &str) -> Result<ImpairmentParams, String> {
        let text = format!("[[stage]]\n{keys}\n");
        let read = document(&text, "x", |root| Some(read_seats(&[root.value("stage").unwrap()])));
        let impairment = |seats: Vec<SeatDraft>| seats[0].stage().unwrap().impairment.clone();
        read.map(impairment).map_err(|error| error.to_string())
    }

    fn tcp(keys: &str) -> Result<TcpParams, String> {
        read(&format!("type = \"tcp\"\n{keys}")).map(|params| match params {
            ImpairmentParams::Tcp(params) => params,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn one_key_is_enough() {
        let none = TcpParams::default();
        for (keys, expected) in [
            ("window = 0", TcpParams { window: Some(WindowRewrite::Set(0)), ..none.clone() }),
            ("window_max = 65535", TcpParams { window: Some(WindowRewrite::Max(65_535)), ..none.clone() }),
            ("strip = \"sack-permitted\"", TcpParams { strip: vec![4], ..none.clone() }),
            (
                "strip = [\"mptcp\", \"mss\", \"timestamps\", \"sack\", \"window-scale\", \"fast-open\", \"mss\"]",
                TcpParams { strip: vec![2, 3, 5, 8, 30, 34], ..none.clone() },
            ),
            ("window_scale = 0", TcpParams { window_scale: Some(0), ..none.clone() }),
            ("ecn = \"bleach\"", TcpParams { bleach_ecn: true, ..none.clone() }),
            ("ecn_negotiation = \"strip\"", TcpParams { refuse_ecn: true, ..none.clone() }),
            ("urgent = \"clear\"", TcpParams { clear_urgent: true, ..none }),
        ] {
            assert_eq!(tcp(keys), Ok(expected), "{keys}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_can() {
        for (keys, said) in [
            ("", "asks for nothing (write window, window_max, strip"),
            ("window = 65536", "65536 is out of range (allowed: 0 to 65535)"),
            ("window = 1\nwindow_max = 2", "window_max: window sets it already"),
            ("window_scale = 15", "15 is out of range (allowed: 0 to 14)"),
            ("window_scale = 1\nstrip = \"window-scale\"", "window_scale: the option is stripped"),
            ("strip = []", "strip: names no option"),
            ("strip = [\"sack-permited\"]", "did you mean \"sack-permitted\"?"),
            (
                "strip = \"everything\"",
                "allowed: mss, window-scale, sack-permitted, sack, timestamps, mptcp, fast-open",
            ),
            ("ecn = \"clear\"", "allowed: bleach"),
            ("ecn_negotiation = \"off\"", "allowed: strip"),
            ("urgent = true", "it should be a text in quotes"),
        ] {
            let error = tcp(keys).unwrap_err();
            assert!(error.contains(said) && error.lines().count() == 1, "{keys}: {error}");
        }
    }

    fn inject(keys: &str) -> Result<InjectParams, String> {
        read(&format!("type = \"inject\"\n{keys}")).map(|params| match params {
            ImpairmentParams::Inject(params) => params,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn a_reset_is_exact_and_single_and_three_acks_repeat_one_by_default() {
        let rst = |sequence, to, count| InjectParams { kind: Injected::Rst(sequence), to, count };
        let receiver = InjectTo::Receiver;
        for (keys, expected) in [
            ("kind = \"rst\"", rst(RstSequence::Exact, receiver, 1)),
            ("kind = \"rst\"\nto = \"sender\"", rst(RstSequence::Exact, InjectTo::Sender, 1)),
            (
                "kind = \"rst\"\nsequence = \"in-window\"\ncount = 9",
                rst(RstSequence::InWindow(1_000), receiver, 9),
            ),
            ("kind = \"rst\"\nsequence = \"stale\"", rst(RstSequence::Stale(1_000_000), receiver, 1)),
            ("kind = \"rst\"\nsequence = \"stale\"\ndistance = 5", rst(RstSequence::Stale(5), receiver, 1)),
            ("kind = \"dup-ack\"", InjectParams { kind: Injected::DuplicateAck, to: receiver, count: 3 }),
        ] {
            assert_eq!(inject(keys), Ok(expected), "{keys}");
        }
    }

    #[test]
    fn forgeries_that_cannot_be_are_refused() {
        for (keys, said) in [
            ("", "kind: is missing (write kind = \"rst\")"),
            ("kind = \"syn\"", "allowed: rst, dup-ack"),
            ("kind = \"rst\"\nsequence = \"inwindow\"", "did you mean \"in-window\"?"),
            ("kind = \"rst\"\ndistance = 5", "distance: an exact reset has none"),
            (
                "kind = \"rst\"\nsequence = \"stale\"\ndistance = 0",
                "0 is out of range (allowed: 1 to 1073741824)",
            ),
            ("kind = \"rst\"\ncount = 0", "0 is out of range (allowed: 1 to 1000)"),
            ("kind = \"rst\"\nto = \"both\"", "allowed: receiver, sender"),
            ("kind = \"dup-ack\"\nsequence = \"exact\"", "sequence: only a reset has it"),
            ("kind = \"dup-ack\"\nto = \"sender\"", "goes the way of the ACK that it repeats"),
        ] {
            let error = inject(keys).unwrap_err();
            assert!(error.contains(said) && error.lines().count() == 1, "{keys}: {error}");
        }
    }
}
