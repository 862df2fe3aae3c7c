//! The token of requests over TCP: where it is stored, and how a request sends it.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, ORIGIN, USER_AGENT, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use nix::libc;
use nix::unistd::geteuid;
use subtle::ConstantTimeEq;

use crate::control::answer::Refusal;

/// Minimum and maximum length of a token, in characters.
const LENGTH: std::ops::RangeInclusive<usize> = 16..=1_024;

/// Why the token is not available.
#[derive(Debug, thiserror::Error)]
#[error("the token in {path}: {what}")]
pub struct TokenError {
    path: PathBuf,
    what: String,
}

/// The secret that a request must send. It is never printed.
#[derive(Clone)]
pub(super) struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

/// A token and its file. A temporary file is removed when this is dropped.
#[derive(Debug)]
pub(super) struct TokenFile {
    pub(super) token: Token,
    pub(super) path: PathBuf,
    is_temporary: bool,
}

impl Drop for TokenFile {
    fn drop(&mut self) {
        // If another file is at the path now, it is not removed.
        let is_own = |text: String| text.trim_end() == self.token.0;
        if self.is_temporary && read(&self.path).is_ok_and(is_own) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl TokenFile {
    /// The token in the file `path`. If there is no file, it is created with a random token.
    pub(super) fn open(path: &Path) -> Result<Self, TokenError> {
        let error = |what: String| TokenError { path: path.to_owned(), what };
        let known = |text: String| token(&text).map_err(error);
        let token = match read(path) {
            Ok(text) => known(text)?,
            Err(Unread::Refused(what)) => return Err(error(what)),
            Err(Unread::Missing) => match make(path) {
                Ok(token) => token,
                // Another instance has just created it.
                Err(source) if source.kind() == io::ErrorKind::AlreadyExists => match read(path) {
                    Ok(text) => known(text)?,
                    Err(_) => return Err(error(source.to_string())),
                },
                Err(source) => return Err(error(source.to_string())),
            },
        };
        Ok(Self { token, path: path.to_owned(), is_temporary: false })
    }

    /// A new token in the file `path`, which is removed at the end. It replaces the file of a killed instance, but no
    /// other file.
    pub(super) fn temporary(path: &Path) -> Result<Self, TokenError> {
        let error = |what: String| TokenError { path: path.to_owned(), what };
        match read(path) {
            Err(Unread::Missing) => {}
            Ok(text) if is_made(&text) => {
                fs::remove_file(path).map_err(|source| error(source.to_string()))?;
            }
            Ok(_) => {
                let what = "a file is there that faultwire did not make; name another with --control-token";
                return Err(error(what.to_owned()));
            }
            Err(Unread::Refused(what)) => return Err(error(what)),
        }
        let token = make(path).map_err(|source| error(source.to_string()))?;
        Ok(Self { token, path: path.to_owned(), is_temporary: true })
    }
}

enum Unread {
    Missing,
    Refused(String),
}

fn read(path: &Path) -> Result<String, Unread> {
    let refused = |what: &str| Unread::Refused(what.to_owned());
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let file = opened.map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => Unread::Missing,
        _ => Unread::Refused(source.to_string()),
    })?;
    let found = file.metadata().map_err(|source| Unread::Refused(source.to_string()))?;
    if !found.is_file() || found.uid() != geteuid().as_raw() {
        return Err(refused("it is no file of this user"));
    }
    if found.permissions().mode() & 0o077 != 0 {
        return Err(refused("others may read or write it; chmod it to 0600"));
    }
    let mut text = String::new();
    let most = *LENGTH.end() as u64 + 2;
    file.take(most).read_to_string(&mut text).map_err(|source| Unread::Refused(source.to_string()))?;
    Ok(text)
}

fn token(text: &str) -> Result<Token, String> {
    let text = text.trim();
    let is_right = LENGTH.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    let (least, most) = (LENGTH.start(), LENGTH.end());
    is_right.then(|| Token(text.to_owned())).ok_or_else(|| {
        format!("it is {least} to {most} letters, digits and signs on one line, and this is none")
    })
}

/// Whether [`make`] wrote this text.
fn is_made(text: &str) -> bool {
    let token = text.strip_suffix('\n').unwrap_or_default();
    token.len() == 64 && token.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Creates a file with 256 random bits. The file is complete as soon as it exists.
fn make(path: &Path) -> io::Result<Token> {
    let mut random = [[0; 16]; 2];
    let mut source = fs::File::open("/dev/urandom")?;
    random.iter_mut().try_for_each(|half| source.read_exact(half))?;
    let [first, second] = random.map(u128::from_be_bytes);
    let text = format!("{first:032x}{second:032x}");
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let unfinished = Path::new(&name);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(unfinished)?;
    let linked = writeln!(file, "{text}").and_then(|()| fs::hard_link(unfinished, path));
    let removed = fs::remove_file(unfinished);
    linked.and(removed)?;
    Ok(Token(text))
}

impl Token {
    /// The token in a file, under the rules of [`TokenFile::open`].
    pub(super) fn of_file(path: &Path) -> Result<Self, TokenError> {
        let read = read(path).map_err(|unread| match unread {
            Unread::Missing => "there is no such file".to_owned(),
            Unread::Refused(what) => what,
        });
        read.and_then(|text| token(&text)).map_err(|what| TokenError { path: path.to_owned(), what })
    }

    /// The text of the token.
    pub(super) fn text(&self) -> &str {
        &self.0
    }

    /// Compares in a time that does not depend on where the two differ. The length is not secret.
    fn is(&self, given: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(given).into()
    }
}

/// Accepts requests that send the token and do not come from a browser.
pub(super) async fn guard(State(token): State<Token>, request: Request, next: Next) -> Response {
    match check(&token, request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => {
            let is_unknown = refusal.status == StatusCode::UNAUTHORIZED;
            let mut answer = refusal.into_response();
            if is_unknown {
                answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            answer
        }
    }
}

fn check(token: &Token, headers: &HeaderMap) -> Result<(), Refusal> {
    let forbidden = |field: &str| {
        let what = "browsers are refused: a page of somebody else could make them ask";
        Err(Refusal::new(StatusCode::FORBIDDEN, field, what))
    };
    if headers.contains_key(ORIGIN) {
        return forbidden("Origin");
    }
    let is_browser =
        |agent: &HeaderValue| agent.as_bytes().windows(7).any(|word| word.eq_ignore_ascii_case(b"mozilla"));
    if headers.get_all(USER_AGENT).iter().any(is_browser) {
        return forbidden("User-Agent");
    }
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let shown = given.next().and_then(|value| {
        let (scheme, rest) = value.as_bytes().split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then_some(rest)
    });
    if given.next().is_none() && shown.is_some_and(|shown| token.is(shown)) {
        return Ok(());
    }
    let what = "show the token of this run: Authorization: Bearer TOKEN";
    Err(Refusal::new(StatusCode::UNAUTHORIZED, "Authorization", what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::Folder;

    fn checked(headers: &[(&'static str, &str)]) -> Result<(), String> {
        let token = Token("0123456789abcdef".to_owned());
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        check(&token, &map).map_err(|refusal| format!("{} {}", refusal.status.as_u16(), refusal.field))
    }

    #[test]
    fn only_the_token_opens_and_never_to_a_browser() {
        let right = ("authorization", "Bearer 0123456789abcdef");
        assert_eq!(checked(&[right]), Ok(()));
        assert_eq!(
            checked(&[("authorization", "bearer 0123456789abcdef"), ("user-agent", "curl/8")]),
            Ok(())
        );
        for wrong in [
            "Bearer 0123456789abcdeF",
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdef0",
            "Bearer 0123456789abcdef ",
            "Basic 0123456789abcdef",
            "0123456789abcdef",
            "Bearer",
            "",
        ] {
            assert_eq!(
                checked(&[("authorization", wrong)]),
                Err("401 Authorization".to_owned()),
                "{wrong:?}"
            );
        }
        assert_eq!(checked(&[]), Err("401 Authorization".to_owned()));
        assert_eq!(checked(&[right, right]), Err("401 Authorization".to_owned()));
        assert_eq!(checked(&[right, ("origin", "null")]), Err("403 Origin".to_owned()));
        assert_eq!(checked(&[right, ("user-agent", "x MOZILLA/5.0")]), Err("403 User-Agent".to_owned()));
    }

    #[test]
    fn a_token_is_made_once_and_read_again() {
        let folder = Folder::new();
        let path = folder.file("token");
        let made = TokenFile::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(made.token.0.len(), 64);
        let again = TokenFile::open(&path).unwrap();
        assert!(again.token.is(made.token.0.as_bytes()));
        drop((made, again));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(TokenFile::open(&path).unwrap_err().to_string().contains("chmod"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        for wrong in ["", "short", "0123456789 abcdef", "0123456789abcdef\n0123456789abcdef"] {
            fs::write(&path, wrong).unwrap();
            assert!(TokenFile::open(&path).unwrap_err().to_string().contains("letters"), "{wrong:?}");
        }
        let link = folder.file("link");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        assert!(TokenFile::open(&link).is_err());
    }

    /// What a killed instance left is replaced. What others made stays, before and after.
    #[test]
    fn a_temporary_token_takes_nobody_s_file() {
        let folder = Folder::new();
        let path = folder.file("token");
        let open = || TokenFile::temporary(&path);
        let temporary = open().unwrap();
        assert_eq!(temporary.token.0.len(), 64);
        assert!(!format!("{temporary:?}").contains(&temporary.token.0));
        drop(temporary);
        assert!(!path.exists());
        std::mem::forget(open().unwrap());
        let again = open().unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "notes").unwrap();
        drop(again);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(open().unwrap_err().to_string().contains("did not make"));
        assert_eq!(fs::read(&path).unwrap(), b"notes");
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1);
    }
}
