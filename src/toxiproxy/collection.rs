//! The proxies of a server, by their names.
//!
//! Changes of one proxy are carried out one after the other. Changes of different proxies do not wait for each other,
//! and reading waits for no change. A change may take long: names are looked up, and links are created.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::OwnedMutexGuard;
use tokio::task::spawn_blocking;

use crate::toxiproxy::answer::ApiError;
use crate::toxiproxy::body::{self, Fields};
use crate::toxiproxy::files::Files;
use crate::toxiproxy::proxy::{Proxy, Shown, Wanted};
use crate::toxiproxy::toxic::Toxic;

/// The proxies.
#[derive(Debug)]
pub(super) struct Collection {
    seed: u64,
    files: Files,
    slots: Mutex<BTreeMap<String, Arc<Slot>>>,
    /// Number of the next toxic.
    next: AtomicU64,
}

/// A name, and the proxy with this name, if there is one.
#[derive(Debug, Default)]
struct Slot {
    proxy: Arc<tokio::sync::Mutex<Option<Proxy>>>,
    /// The state of the proxy after the last change.
    shown: Mutex<Option<Arc<Shown>>>,
}

impl Slot {
    fn shown(&self) -> MutexGuard<'_, Option<Arc<Shown>>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Exclusive access to a slot while its proxy is changed. When it is dropped, the new state of the proxy is
/// published, however the change ended.
#[derive(Debug)]
struct Turn {
    slot: Arc<Slot>,
    proxy: OwnedMutexGuard<Option<Proxy>>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        *self.slot.shown() = self.proxy.as_ref().map(|proxy| Arc::new(proxy.shown()));
    }
}

impl Turn {
    async fn at(slot: Arc<Slot>) -> Self {
        let proxy = Arc::clone(&slot.proxy).lock_owned().await;
        Self { slot, proxy }
    }

    fn proxy(&mut self) -> Result<&mut Proxy, ApiError> {
        self.proxy.as_mut().ok_or_else(ApiError::no_proxy)
    }

    fn shown(&self) -> Result<Shown, ApiError> {
        self.proxy.as_ref().map(Proxy::shown).ok_or_else(ApiError::no_proxy)
    }
}

impl Collection {
    pub(super) fn new(seed: u64, files: Files) -> Self {
        Self { seed, files, slots: Mutex::default(), next: AtomicU64::new(1) }
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All proxies, by name.
    pub(super) fn all(&self) -> Vec<Arc<Shown>> {
        self.slots().values().filter_map(|slot| slot.shown().clone()).collect()
    }

    pub(super) fn get(&self, name: &str) -> Result<Arc<Shown>, ApiError> {
        let slot = self.slots().get(name).map(Arc::clone);
        slot.and_then(|slot| slot.shown().clone()).ok_or_else(ApiError::no_proxy)
    }

    /// Waits for exclusive access to the proxy that has this name or will have it.
    async fn turn(&self, name: &str) -> Turn {
        let slot = {
            let mut slots = self.slots();
            // Names without a proxy that no request waits for are forgotten.
            slots.retain(|_, slot| Arc::strong_count(slot) > 1 || slot.shown().is_some());
            Arc::clone(slots.entry(name.to_owned()).or_default())
        };
        Turn::at(slot).await
    }

    /// The same, if there is a proxy with this name.
    async fn turn_of(&self, name: &str) -> Result<Turn, ApiError> {
        let slot = self.slots().get(name).map(Arc::clone).ok_or_else(ApiError::no_proxy)?;
        let turn = Turn::at(slot).await;
        if turn.proxy.is_some() { Ok(turn) } else { Err(ApiError::no_proxy()) }
    }

    /// Makes a proxy.
    pub(super) async fn create(&self, body: &[u8]) -> Result<Shown, ApiError> {
        let fields = fields(body)?;
        let wanted = wanted(&fields, "")?;
        let mut turn = self.turn(&wanted.name).await;
        if turn.proxy.is_some() {
            return Err(ApiError::proxy_exists());
        }
        self.put(&mut turn, &wanted).await?;
        turn.shown()
    }

    /// Creates a proxy in place of the existing one. If this fails, the existing one stays and is disabled.
    async fn put(&self, turn: &mut Turn, wanted: &Wanted) -> Result<(), ApiError> {
        let mut proxy = Proxy::new(self.seed, wanted, self.files.clone());
        if let Some(before) = &mut *turn.proxy {
            before.stop().await;
            // Its link makes room for the new one: connections that wait for descriptors do not get these.
            discard(before.take_link()).await;
            std::mem::swap(before.reserved(), proxy.reserved());
        }
        if wanted.enabled
            && let Err(error) = proxy.start().await
        {
            if let Some(before) = &mut *turn.proxy {
                std::mem::swap(before.reserved(), proxy.reserved());
            }
            return Err(error);
        }
        // A link that is not made yet has none.
        *proxy.reserved() = None;
        discard(turn.proxy.replace(proxy)).await;
        Ok(())
    }

    /// Creates all proxies of a list. Returns those that exist now, and the error, if there was one.
    pub(super) async fn populate(&self, body: &[u8]) -> (Vec<Shown>, Option<ApiError>) {
        let wanted = match list(body) {
            Ok(wanted) => wanted,
            Err(error) => return (Vec::new(), Some(error)),
        };
        let mut made = Vec::new();
        for wanted in wanted {
            match self.populate_one(&wanted).await {
                Ok(shown) => made.push(shown),
                Err(error) => return (made, Some(error)),
            }
        }
        (made, None)
    }

    async fn populate_one(&self, wanted: &Wanted) -> Result<Shown, ApiError> {
        let mut turn = self.turn(&wanted.name).await;
        let is_there = match &*turn.proxy {
            Some(proxy) => !proxy.differs(wanted).await?,
            None => false,
        };
        if !is_there {
            self.put(&mut turn, wanted).await?;
        }
        turn.shown()
    }

    /// Changes a proxy.
    pub(super) async fn update(&self, name: &str, body: &[u8]) -> Result<Shown, ApiError> {
        let mut turn = self.turn_of(name).await?;
        let proxy = turn.proxy()?;
        let mut wanted = proxy.wanted();
        wanted.set(&fields(body)?)?;
        proxy.update(&wanted).await?;
        turn.shown()
    }

    /// Removes a proxy.
    pub(super) async fn remove(&self, name: &str) -> Result<(), ApiError> {
        let mut turn = self.turn_of(name).await?;
        turn.proxy()?.stop().await;
        discard(turn.proxy.take()).await;
        Ok(())
    }

    /// Enables all proxies and removes all toxics.
    pub(super) async fn reset(&self) -> Result<(), ApiError> {
        for shown in self.all() {
            // It may have been removed in the meantime.
            let Ok(mut turn) = self.turn_of(&shown.name).await else { continue };
            let proxy = turn.proxy()?;
            proxy.start().await?;
            proxy.set_toxics(Vec::new()).await?;
        }
        Ok(())
    }

    /// Closes everything.
    pub(super) async fn stop(&self) {
        let slots = std::mem::take(&mut *self.slots());
        for slot in slots.into_values() {
            let mut turn = Turn::at(slot).await;
            if let Some(mut proxy) = turn.proxy.take() {
                proxy.stop().await;
            }
        }
    }

    /// Adds a toxic to a proxy.
    pub(super) async fn add_toxic(&self, proxy: &str, body: &[u8]) -> Result<Toxic, ApiError> {
        let mut turn = self.turn_of(proxy).await?;
        let proxy = turn.proxy()?;
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let toxic = Toxic::read(id, &fields(body)?, |name| proxy.toxic(name).is_some())?;
        let mut toxics = proxy.toxics();
        toxics.push(toxic.clone());
        proxy.set_toxics(toxics).await?;
        Ok(toxic)
    }

    /// Changes a toxic.
    pub(super) async fn update_toxic(&self, proxy: &str, name: &str, body: &[u8]) -> Result<Toxic, ApiError> {
        let mut turn = self.turn_of(proxy).await?;
        let proxy = turn.proxy()?;
        let toxic = proxy.toxic(name).ok_or_else(ApiError::no_toxic)?.updated(&fields(body)?)?;
        let with = |other: Toxic| if other.id == toxic.id { toxic.clone() } else { other };
        let toxics = proxy.toxics().into_iter().map(with).collect();
        proxy.set_toxics(toxics).await?;
        Ok(toxic)
    }

    /// Removes a toxic.
    pub(super) async fn remove_toxic(&self, proxy: &str, name: &str) -> Result<(), ApiError> {
        let mut turn = self.turn_of(proxy).await?;
        let proxy = turn.proxy()?;
        let id = proxy.toxic(name).ok_or_else(ApiError::no_toxic)?.id;
        let toxics = proxy.toxics().into_iter().filter(|toxic| toxic.id != id).collect();
        proxy.set_toxics(toxics).await
    }
}

/// Drops a proxy on another thread: removing its devices and namespaces takes time.
async fn discard<T: Send + 'static>(what: T) {
    // A panic there has been printed.
    let _ = spawn_blocking(move || drop(what)).await;
}

fn fields(body: &[u8]) -> Result<Fields, ApiError> {
    body::value(body).and_then(body::object).map_err(ApiError::bad_body)
}

/// A new proxy from a request; `which` tells errors which one of several it is.
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
