//! The client of a control socket or of `--control-listen`: finds running instances and sends requests to them.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::control::socket::{Choice, ENDING, SocketError, folder};
use crate::control::token::{Token, TokenError};
use crate::control::way::{Stream, Way};

/// How long to wait for the answer of an instance.
const PATIENCE: Duration = Duration::from_secs(10);
/// Maximum size of an answer, in bytes.
const LONGEST: u64 = 256 << 20;

/// The variable that `exec` sets for its command: the path of its socket.
pub const VARIABLE: &str = "FAULTWIRE_CONTROL";

/// There is no answer, or an error was answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The path of the socket cannot be determined.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// There is no token to send.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// No instance is running.
    #[error("no instance of faultwire runs here that can be asked (looked in {0})")]
    Nobody(String),
    /// Several instances are running.
    #[error("several instances run: {0}; say which (--control NAME)")]
    Several(String),
    /// It is not clear which instance is meant.
    #[error("{0}")]
    Unclear(String),
    /// The instance does not answer.
    #[error("cannot ask {place}: {source}{}", cure(source))]
    Lost {
        /// The path of the socket, or the address.
        place: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The answer does not come from faultwire.
    #[error("{place} answers in a way that is not faultwire's: {what}")]
    Strange {
        /// The path of the socket, or the address.
        place: String,
        /// What is wrong with the answer.
        what: String,
    },
    /// The request was refused.
    #[error("{}{what}", if field.is_empty() { String::new() } else { format!("{field}: ") })]
    Refused {
        /// HTTP status.
        status: u16,
        /// The part of the request that it is about; empty: all of it.
        field: String,
        /// Why.
        what: String,
    },
}

/// A running instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    way: Way,
}

/// What to do if there is no answer for this reason.
fn cure(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => " (`faultwire ctl ls` lists the instances that run)",
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ": no answer came in time",
        _ => "",
    }
}

/// Whether the other end has closed: over a Unix socket, or over TCP.
fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

impl Client {
    /// The instance whose socket is at `path`.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { way: Way::Socket(path.into()) }
    }

    /// The instance that serves its interface at `address` (`--control-listen`), as `HOST:PORT`. The file `token` has its token, and
    /// only its owner may read it.
    ///
    /// # Errors
    /// If there is no token in the file, or others may read it.
    pub fn remote(address: impl Into<String>, token: &Path) -> Result<Self, ClientError> {
        Ok(Self { way: Way::Address { address: address.into(), token: Token::of_file(token)? } })
    }

    /// The instance that `choice` names. Without a choice, the only one that is running.
    ///
    /// # Errors
    /// If there is none, or there are several and it is not clear which is meant.
    pub fn find(choice: Option<&Choice>) -> Result<Self, ClientError> {
        if let Some(choice) = choice {
            let nobody = || ClientError::Nobody("none".to_owned());
            return choice.path()?.map(Self::at).ok_or_else(nobody);
        }
        match &Self::all()[..] {
            [only] => Ok(only.clone()),
            [] => {
                let looked =
                    folder().map_or_else(|| "no folder".to_owned(), |path| path.display().to_string());
                Err(ClientError::Nobody(looked))
            }
            several => {
                let names: Vec<String> = several.iter().map(Self::name).collect();
                Err(ClientError::Several(names.join(", ")))
            }
        }
    }

    /// All running instances of this user that have a name, sorted by name.
    pub fn all() -> Vec<Self> {
        let files = folder().and_then(|folder| std::fs::read_dir(folder).ok());
        let paths = files.into_iter().flatten().flatten().map(|entry| entry.path());
        let sockets = paths.filter(|path| path.to_string_lossy().ends_with(ENDING));
        let mut running: Vec<PathBuf> = sockets.filter(|path| UnixStream::connect(path).is_ok()).collect();
        running.sort();
        running.into_iter().map(Self::at).collect()
    }

    /// The name of the instance: the name of its socket, or its path or address.
    pub fn name(&self) -> String {
        let Way::Socket(path) = &self.way else { return self.way.to_string() };
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let own = folder().is_some_and(|folder| path.parent() == Some(&folder));
        let name = name.and_then(|name| name.strip_suffix(ENDING).map(str::to_owned)).filter(|_| own);
        name.unwrap_or_else(|| path.display().to_string())
    }

    /// The path of its socket, if it is reached by one.
    pub fn path(&self) -> Option<&Path> {
        match &self.way {
            Way::Socket(path) => Some(path),
            Way::Address { .. } => None,
        }
    }

    /// Reads `resource`, for example `/v1/counters`.
    ///
    /// # Errors
    /// If there is no answer, or the request is refused.
    pub fn get(&self, resource: &str) -> Result<Value, ClientError> {
        Ok(self.send("GET", resource, None, None)?.body)
    }

    /// Sends a request and returns the answer. `version` is the version that the resource must have (`If-Match`).
    ///
    /// # Errors
    /// If there is no answer, or the request is refused.
    pub fn send(
        &self,
        method: &str,
        resource: &str,
        body: Option<&Value>,
        version: Option<&str>,
    ) -> Result<Answer, ClientError> {
        let stream = self.ask(method, resource, body, version)?;
        let mut stream = BufReader::new(stream);
        let (status, version) = self.head(&mut stream)?;
        let body = self.body(&self.rest(stream)?)?;
        refused(status, &body)?;
        Ok(Answer { status, version, body })
    }

    /// Events as they happen; `query` is, for example, `kinds=dropped&path=up`. The first event says that the workers
    /// have started to report.
    ///
    /// # Errors
    /// If there is no answer, or the request is refused.
    pub fn events(&self, query: &str) -> Result<Events, ClientError> {
        let stream = self.ask("GET", &format!("/v1/events?{query}"), None, None)?;
        stream.wait_for_ever().map_err(|source| self.lost(source))?;
        let mut lines = BufReader::new(stream);
        let (status, _) = self.head(&mut lines)?;
        if status >= 300 {
            refused(status, &self.body(&self.rest(lines)?)?)?;
            return Err(self.strange("a refusal without a reason"));
        }
        Ok(Events { client: self.clone(), lines })
    }

    fn ask(
        &self,
        method: &str,
        resource: &str,
        body: Option<&Value>,
        version: Option<&str>,
    ) -> Result<Stream, ClientError> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut head = vec![format!("{method} {resource} HTTP/1.0")];
        head.extend(self.way.headers());
        if !body.is_empty() {
            head.push("Content-Type: application/json".to_owned());
            head.push(format!("Content-Length: {}", body.len()));
        }
        head.extend(version.map(|version| format!("If-Match: {version}")));
        let head = head.join("\r\n");
        let send = || {
            let mut stream = self.way.connect(PATIENCE)?;
            match stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()) {
                // The request may have been refused already; the answer says why.
                Err(error) if !is_closed(&error) => Err(error),
                _ => Ok(stream),
            }
        };
        send().map_err(|source| self.lost(source))
    }

    /// Reads the rest of the answer. A server that refuses a request before it has read all of it closes the
    /// connection early.
    fn rest(&self, stream: impl Read) -> Result<String, ClientError> {
        let mut bytes = Vec::new();
        match stream.take(LONGEST).read_to_end(&mut bytes) {
            Err(error) if error.kind() != io::ErrorKind::ConnectionReset => Err(self.lost(error)),
            _ => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        }
    }

    /// Reads the status and the version.
    fn head(&self, stream: &mut impl BufRead) -> Result<(u16, Option<String>), ClientError> {
        let mut line = String::new();
        let mut next = |line: &mut String| {
            line.clear();
            stream.take(LONGEST).read_line(line).map_err(|source| self.lost(source))
        };
        next(&mut line)?;
        let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
        let status = status.ok_or_else(|| self.strange(&format!("{:?}", line.trim())))?;
        let mut version = None;
        while next(&mut line)? > 0 && !line.trim().is_empty() {
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("etag")
            {
                version = Some(value.trim().to_owned());
            }
        }
        Ok((status, version))
    }

    fn body(&self, text: &str) -> Result<Value, ClientError> {
        if text.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(text).map_err(|error| self.strange(&error.to_string()))
    }

    fn lost(&self, source: io::Error) -> ClientError {
        ClientError::Lost { place: self.way.to_string(), source }
    }

    fn strange(&self, what: &str) -> ClientError {
        ClientError::Strange { place: self.way.to_string(), what: what.to_owned() }
    }
}

fn refused(status: u16, body: &Value) -> Result<(), ClientError> {
    if status < 300 {
        return Ok(());
    }
    let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
    Err(ClientError::Refused { status, field: text("field"), what: text("error") })
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status, below 300.
    pub status: u16,
    /// The version of the resource (`ETag`).
    pub version: Option<String>,
    /// The body; null if it is empty.
    pub body: Value,
}

/// Events as they happen. Ends with the run.
#[derive(Debug)]
pub struct Events {
    client: Client,
    lines: BufReader<Stream>,
}

impl Events {
    /// The stream on which the next event arrives, to wait for it.
    pub const fn stream(&self) -> &BufReader<Stream> {
        &self.lines
    }
}

impl Iterator for Events {
    type Item = Result<Value, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut line = String::new();
        match self.lines.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(self.client.body(line.trim_end())),
            Err(source) => Some(Err(self.client.lost(source))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::folder::Folder;

    /// The client's result for an answer of a server.
    fn heard(answer: &str) -> Result<Answer, ClientError> {
        let folder = Folder::new();
        let path = folder.file("socket");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = listener.accept().unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
                // The request is read first; otherwise closing the socket would send a RST.
                let mut lines = BufReader::new(stream).lines();
                while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
            });
            let heard = Client::at(&path).get("/v1/state");
            heard.map(|body| Answer { status: 200, version: None, body })
        })
    }

    #[test]
    fn answers_and_refusals_are_told_apart() {
        let answer = heard("HTTP/1.0 200 OK\r\nContent-Type: x\r\n\r\n{\"a\":1}").unwrap();
        assert_eq!(answer.body["a"], 1);
        let refusal = "HTTP/1.0 404 x\r\n\r\n{\"error\":\"none\",\"field\":\"path\",\"status\":404}";
        assert_eq!(heard(refusal).unwrap_err().to_string(), "path: none");
        for strange in ["", "SSH-2.0\r\n", "HTTP/1.0 200 OK\r\n\r\nno json"] {
            let error = heard(strange).unwrap_err();
            assert!(matches!(error, ClientError::Strange { .. }), "{strange:?}: {error}");
        }
    }
}
