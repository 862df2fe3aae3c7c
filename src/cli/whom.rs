//! Which running instance a command asks.

use std::path::PathBuf;
use std::str::FromStr;

use crate::cli::completions;
use crate::control::{Choice, Client, ClientError, VARIABLE};

/// The options that say it.
#[derive(Debug, clap::Args)]
pub(super) struct Whom {
    /// Name or path of its control socket, or the address of its --control-listen [default: that of the variable `FAULTWIRE_CONTROL`, or the only instance that runs]
    #[arg(long, value_name = "NAME|PATH|HOST:PORT", global = true, add = completions::of_instances())]
    pub(super) control: Option<Place>,
    /// File with the token that HOST:PORT wants to see
    #[arg(long, value_name = "FILE", global = true, value_hint = clap::ValueHint::FilePath)]
    pub(super) token_file: Option<PathBuf>,
}

/// Where an instance is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// At its socket.
    Socket(Choice),
    /// At this address, as `HOST:PORT`.
    Address(String),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_address = |(host, port): (&str, &str)| !host.is_empty() && port.parse::<u16>().is_ok();
        if !text.contains('/') && text.rsplit_once(':').is_some_and(is_address) {
            return Ok(Self::Address(text.to_owned()));
        }
        text.parse().map(Self::Socket)
    }
}

impl Whom {
    /// The instance, which need not answer.
    pub(super) fn client(&self) -> Result<Client, ClientError> {
        let control = match &self.control {
            Some(control) => Some(control.clone()),
            None => named(std::env::var(VARIABLE).ok().as_deref())?,
        };
        match (&control, &self.token_file) {
            (Some(Place::Address(address)), Some(token)) => Client::remote(address, token),
            (Some(Place::Address(address)), None) => {
                Err(wrong(format!("{address} wants to see a token: name its file (--token-file FILE)")))
            }
            (_, Some(_)) => Err(wrong("a token is for an address (--control HOST:PORT)".to_owned())),
            (Some(Place::Socket(choice)), None) => Client::find(Some(choice)),
            (None, None) => Client::find(None),
        }
    }
}

/// The instance that the variable names: as for `--control`.
fn named(variable: Option<&str>) -> Result<Option<Place>, ClientError> {
    let parsed = variable.filter(|text| !text.is_empty()).map(str::parse).transpose();
    parsed.map_err(|error| wrong(format!("{VARIABLE}: {error}")))
}

fn wrong(what: String) -> ClientError {
    ClientError::Unclear(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_takes_what_the_option_takes() {
        for text in ["web", "/run/faultwire/web.sock", "127.0.0.1:9470"] {
            assert_eq!(named(Some(text)).unwrap(), Some(text.parse().unwrap()));
        }
        assert_eq!(named(None).unwrap(), None);
        assert_eq!(named(Some("")).unwrap(), None);
        let error = named(Some("host:x")).unwrap_err().to_string();
        assert!(error.starts_with("FAULTWIRE_CONTROL: "), "{error}");
    }

    #[test]
    fn an_address_is_told_from_a_name_and_a_path() {
        for text in ["127.0.0.1:9470", "localhost:1", "[::1]:9470"] {
            assert_eq!(text.parse(), Ok(Place::Address(text.to_owned())));
        }
        assert_eq!("web".parse(), Ok(Place::Socket(Choice::Name("web".to_owned()))));
        assert_eq!("./a:1".parse(), Ok(Place::Socket(Choice::Path("./a:1".into()))));
        for wrong in ["", ":1", "host:", "host:70000", "host:x"] {
            assert!(wrong.parse::<Place>().is_err(), "{wrong}");
        }
    }
}
