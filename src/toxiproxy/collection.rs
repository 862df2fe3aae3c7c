//! The proxies of a server, by their names.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::toxiproxy::answer::ApiError;
use crate::toxiproxy::body::{self, Fields};
use crate::toxiproxy::proxy::{Proxy, Wanted};
use crate::toxiproxy::toxic::Toxic;

/// The proxies.
#[derive(Debug)]
pub(super) struct Collection {
    seed: u64,
    proxies: BTreeMap<String, Proxy>,
    /// Number of the next toxic.
    next: u64,
}

impl Collection {
    pub(super) const fn new(seed: u64) -> Self {
        Self { seed, proxies: BTreeMap::new(), next: 0 }
    }

    pub(super) fn all(&self) -> &BTreeMap<String, Proxy> {
        &self.proxies
    }

    pub(super) fn get(&self, name: &str) -> Result<&Proxy, ApiError> {
        self.proxies.get(name).ok_or_else(ApiError::no_proxy)
    }

    fn get_mut(&mut self, name: &str) -> Result<&mut Proxy, ApiError> {
        self.proxies.get_mut(name).ok_or_else(ApiError::no_proxy)
    }

    /// Makes a proxy.
    pub(super) async fn create(&mut self, body: &[u8]) -> Result<&Proxy, ApiError> {
        let fields = fields(body)?;
        let wanted = wanted(&fields, "")?;
        if self.proxies.contains_key(&wanted.name) {
            return Err(ApiError::proxy_exists());
        }
        self.put(&wanted).await
    }

    /// Makes it, in place of one of the same name.
    async fn put(&mut self, wanted: &Wanted) -> Result<&Proxy, ApiError> {
        if let Some(mut before) = self.proxies.remove(&wanted.name) {
            before.stop().await;
        }
        let mut proxy = Proxy::new(self.seed, wanted);
        if wanted.enabled {
            proxy.start().await?;
        }
        Ok(self.proxies.entry(wanted.name.clone()).or_insert(proxy))
    }

    /// Makes all that a list asks for; the names of those that are there now, and what went wrong.
    pub(super) async fn populate(&mut self, body: &[u8]) -> (Vec<String>, Option<ApiError>) {
        let wanted = match list(body) {
            Ok(wanted) => wanted,
            Err(error) => return (Vec::new(), Some(error)),
        };
        let mut names = Vec::new();
        for wanted in wanted {
            let is_there = match self.proxies.get(&wanted.name) {
                Some(proxy) => proxy.differs(&wanted).await.map(|differs| !differs),
                None => Ok(false),
            };
            let done = match is_there {
                Ok(true) => Ok(()),
                Ok(false) => self.put(&wanted).await.map(drop),
                Err(error) => Err(error),
            };
            if let Err(error) = done {
                return (names, Some(error));
            }
            names.push(wanted.name);
        }
        (names, None)
    }

    /// Changes a proxy.
    pub(super) async fn update(&mut self, name: &str, body: &[u8]) -> Result<&Proxy, ApiError> {
        let proxy = self.get_mut(name)?;
        let mut wanted = proxy.wanted();
        wanted.set(&fields(body)?)?;
        proxy.update(&wanted).await?;
        Ok(proxy)
    }

    /// Removes a proxy.
    pub(super) async fn remove(&mut self, name: &str) -> Result<(), ApiError> {
        let mut proxy = self.proxies.remove(name).ok_or_else(ApiError::no_proxy)?;
        proxy.stop().await;
        Ok(())
    }

    /// Enables all proxies and removes all toxics.
    pub(super) async fn reset(&mut self) -> Result<(), ApiError> {
        for proxy in self.proxies.values_mut() {
            proxy.start().await?;
            proxy.set_toxics(Vec::new()).await?;
        }
        Ok(())
    }

    /// Closes everything.
    pub(super) async fn stop(&mut self) {
        for proxy in self.proxies.values_mut() {
            proxy.stop().await;
        }
        self.proxies.clear();
    }

    /// Adds a toxic to a proxy.
    pub(super) async fn add_toxic(&mut self, proxy: &str, body: &[u8]) -> Result<Toxic, ApiError> {
        self.next += 1;
        let id = self.next;
        let proxy = self.get_mut(proxy)?;
        let toxic = Toxic::read(id, &fields(body)?, |name| proxy.toxic(name).is_some())?;
        let mut toxics: Vec<Toxic> = proxy.toxics().into_iter().cloned().collect();
        toxics.push(toxic.clone());
        proxy.set_toxics(toxics).await?;
        Ok(toxic)
    }

    /// Changes a toxic.
    pub(super) async fn update_toxic(
        &mut self,
        proxy: &str,
        name: &str,
        body: &[u8],
    ) -> Result<Toxic, ApiError> {
        let proxy = self.get_mut(proxy)?;
        let toxic = proxy.toxic(name).ok_or_else(ApiError::no_toxic)?.updated(&fields(body)?)?;
        let with = |other: &Toxic| if other.id == toxic.id { toxic.clone() } else { other.clone() };
        let toxics = proxy.toxics().into_iter().map(with).collect();
        proxy.set_toxics(toxics).await?;
        Ok(toxic)
    }

    /// Removes a toxic.
    pub(super) async fn remove_toxic(&mut self, proxy: &str, name: &str) -> Result<(), ApiError> {
        let proxy = self.get_mut(proxy)?;
        let id = proxy.toxic(name).ok_or_else(ApiError::no_toxic)?.id;
        let toxics = proxy.toxics().into_iter().filter(|toxic| toxic.id != id).cloned().collect();
        proxy.set_toxics(toxics).await
    }
}

fn fields(body: &[u8]) -> Result<Fields, ApiError> {
    body::value(body).and_then(body::object).map_err(ApiError::bad_body)
}

/// A new proxy, as it is asked for; `which` it is of several goes into errors.
fn wanted(fields: &Fields, which: &str) -> Result<Wanted, ApiError> {
    let mut wanted =
        Wanted { name: String::new(), listen: String::new(), upstream: String::new(), enabled: true };
    wanted.set(fields)?;
    for (field, value) in [("name", &wanted.name), ("upstream", &wanted.upstream)] {
        if value.is_empty() {
            return Err(ApiError::missing(format_args!("{field}{which}")));
        }
    }
    Ok(wanted)
}

/// A list of proxies.
fn list(body: &[u8]) -> Result<Vec<Wanted>, ApiError> {
    let values = match body::value(body).map_err(ApiError::bad_body)? {
        Value::Array(values) => values,
        Value::Null => Vec::new(),
        _ => return Err(ApiError::bad_body("this is not an array of proxies")),
    };
    let read = |(number, value)| {
        let fields = body::object(value).map_err(ApiError::bad_body)?;
        wanted(&fields, &format!(" at proxy {}", number + 1))
    };
    values.into_iter().enumerate().map(read).collect()
}
