//! A proxy: where it listens, where it leads, and its toxics.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{AbortHandle, spawn_blocking};
use tokio::time::Instant;

use crate::pipeline::params::StageParams;
use crate::pipeline::random::rng::StageKey;
use crate::toxiproxy::accept::{Accepting, Wiring};
use crate::toxiproxy::address::{listen, resolve};
use crate::toxiproxy::answer::ApiError;
use crate::toxiproxy::body::Fields;
use crate::toxiproxy::class;
use crate::toxiproxy::connection::Far;
use crate::toxiproxy::fate::{Acting, Active};
use crate::toxiproxy::files::{Files, InUse};
use crate::toxiproxy::link::Link;
use crate::toxiproxy::metrics::Counts;
use crate::toxiproxy::stages;
use crate::toxiproxy::toxic::{Direction, Toxic};

/// A proxy as a request describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) listen: String,
    pub(super) upstream: String,
    pub(super) enabled: bool,
}

impl Wanted {
    /// Changes the fields that are given.
    pub(super) fn set(&mut self, fields: &Fields) -> Result<(), ApiError> {
        let mut read = || -> Result<(), String> {
            fields.text("name", &mut self.name)?;
            fields.text("listen", &mut self.listen)?;
            fields.text("upstream", &mut self.upstream)?;
            fields.flag("enabled", &mut self.enabled)
        };
        read().map_err(ApiError::bad_body)
    }
}

/// A proxy as answers show it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Shown {
    pub(super) name: String,
    pub(super) listen: String,
    pub(super) upstream: String,
    enabled: bool,
    /// Its toxics; those of the upstream direction first.
    pub(super) toxics: Vec<Toxic>,
    #[serde(skip)]
    pub(super) counts: Arc<Counts>,
}

impl Shown {
    pub(super) fn toxic(&self, name: &str) -> Option<&Toxic> {
        self.toxics.iter().find(|toxic| toxic.name == name)
    }
}

/// A proxy.
#[derive(Debug)]
pub(super) struct Proxy {
    name: String,
    listen: String,
    upstream: String,
    counts: Arc<Counts>,
    files: Files,
    /// Descriptors for a link that it will have.
    reserved: Option<InUse>,
    /// Of all of its draws.
    seed: u64,
    toxics: Vec<Toxic>,
    /// The toxics as the relays see them.
    active: watch::Sender<Arc<Active>>,
    /// The number of connections so far.
    next: Arc<AtomicU64>,
    /// Created when the proxy is first enabled.
    route: Option<Route>,
    accepting: Option<Accepting>,
}

/// The link, and the task at its far end.
#[derive(Debug)]
pub(super) struct Route {
    link: Arc<Link>,
    far: Arc<Far>,
    _task: Task,
    files: InUse,
}

/// A task that ends when this is dropped.
#[derive(Debug)]
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Proxy {
    /// A proxy that is not enabled.
    pub(super) fn new(seed: u64, wanted: &Wanted, files: Files) -> Self {
        Self {
            name: wanted.name.clone(),
            listen: wanted.listen.clone(),
            upstream: wanted.upstream.clone(),
            counts: Arc::default(),
            files,
            reserved: None,
            seed,
            toxics: Vec::new(),
            active: watch::Sender::default(),
            next: Arc::default(),
            route: None,
            accepting: None,
        }
    }

    const fn is_enabled(&self) -> bool {
        self.accepting.is_some()
    }

    /// Its current state.
    pub(super) fn shown(&self) -> Shown {
        Shown {
            name: self.name.clone(),
            listen: self.listen.clone(),
            upstream: self.upstream.clone(),
            enabled: self.is_enabled(),
            toxics: self.toxics(),
            counts: Arc::clone(&self.counts),
        }
    }

    /// Whether it has to be restarted to match `wanted`.
    pub(super) async fn differs(&self, wanted: &Wanted) -> Result<bool, ApiError> {
        if self.upstream != wanted.upstream {
            return Ok(true);
        }
        if self.listen == wanted.listen {
            return Ok(false);
        }
        let address = resolve(&wanted.listen).await.map_err(ApiError::internal)?;
        Ok(self.listen != address.to_string())
    }

    /// Starts to listen, if it does not yet.
    pub(super) async fn start(&mut self) -> Result<(), ApiError> {
        if self.is_enabled() {
            return Ok(());
        }
        let address = resolve(&self.listen).await.map_err(ApiError::internal)?;
        let listener = listen(address).and_then(TcpListener::from_std).map_err(ApiError::internal)?;
        let address = listener.local_addr().map_err(ApiError::internal)?;
        let route = match self.route.take() {
            Some(route) => route,
            None => self.route().await?,
        };
        self.listen = address.to_string();
        let wiring = Wiring {
            key: self.key(),
            link: Arc::clone(&route.link),
            far: Arc::clone(&route.far),
            toxics: self.active.subscribe(),
            counts: Arc::clone(&self.counts),
            next: Arc::clone(&self.next),
            upstream: self.upstream.clone(),
            files: self.files.clone(),
        };
        self.route = Some(route);
        self.accepting = Some(Accepting::start(listener, wiring));
        Ok(())
    }

    /// Closes its listener and connections.
    pub(super) async fn stop(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.stop().await;
        }
    }

    /// Gives up its link, which it makes anew if it starts again. The descriptors stay reserved for that.
    pub(super) fn take_link(&mut self) -> Option<Arc<Link>> {
        let Route { link, files, .. } = self.route.take()?;
        self.reserved = Some(files);
        Some(link)
    }

    /// The descriptors that are reserved for its link. Whoever has them can make one, however scarce they are.
    pub(super) const fn reserved(&mut self) -> &mut Option<InUse> {
        &mut self.reserved
    }

    /// Changes it to match `wanted`; its name stays.
    pub(super) async fn update(&mut self, wanted: &Wanted) -> Result<(), ApiError> {
        if self.differs(wanted).await? {
            self.stop().await;
            self.listen.clone_from(&wanted.listen);
            self.upstream.clone_from(&wanted.upstream);
        }
        if wanted.enabled {
            return self.start().await;
        }
        self.stop().await;
        Ok(())
    }

    /// Its current settings, as a base for a change.
    pub(super) fn wanted(&self) -> Wanted {
        Wanted {
            name: self.name.clone(),
            listen: self.listen.clone(),
            upstream: self.upstream.clone(),
            enabled: self.is_enabled(),
        }
    }

    /// Its toxics; those of the upstream direction first.
    pub(super) fn toxics(&self) -> Vec<Toxic> {
        let mut toxics = self.toxics.clone();
        toxics.sort_by_key(|toxic| toxic.stream);
        toxics
    }

    pub(super) fn toxic(&self, name: &str) -> Option<&Toxic> {
        self.toxics.iter().find(|toxic| toxic.name == name)
    }

    /// Replaces its toxics. If the link cannot be changed, everything stays as it is.
    pub(super) async fn set_toxics(&mut self, toxics: Vec<Toxic>) -> Result<(), ApiError> {
        // Taken before the stages are installed, so that no packet was hit before this time.
        let now = Instant::now();
        let before = Arc::clone(&self.active.borrow());
        let acting = |toxic: &Toxic| {
            let known = before.0.iter().find(|acting| acting.toxic.id == toxic.id);
            let since = known.map_or(now, |acting| acting.since);
            Acting { classes: class::hit(self.key_of(toxic), toxic.toxicity), toxic: toxic.clone(), since }
        };
        let active = Active(toxics.iter().map(acting).collect());
        if let Some(route) = &self.route {
            let (link, stages) = (Arc::clone(&route.link), self.stages(&toxics));
            let done = spawn_blocking(move || link.replace(stages)).await;
            done.map_err(ApiError::internal)?.map_err(ApiError::internal)?;
        }
        self.toxics = toxics;
        self.active.send_replace(Arc::new(active));
        Ok(())
    }

    fn key(&self) -> StageKey {
        StageKey::new(self.seed, &format!("{}/connections", self.name))
    }

    fn key_of(&self, toxic: &Toxic) -> StageKey {
        StageKey::new(self.seed, &format!("{}/toxics/{}", self.name, toxic.name))
    }

    fn stages(&self, toxics: &[Toxic]) -> [Vec<StageParams>; 2] {
        Direction::BOTH.map(|direction| stages::of(toxics, direction, &|toxic| self.key_of(toxic)))
    }

    async fn route(&mut self) -> Result<Route, ApiError> {
        let files = match self.reserved.take() {
            Some(files) => files,
            None => self.files.of_link().map_err(ApiError::internal)?,
        };
        // Proxies draw apart from each other.
        let seed = StageKey::new(self.seed, &self.name).salt(0);
        let stages = self.stages(&self.toxics);
        let made = spawn_blocking(move || Link::start(seed, stages)).await.map_err(ApiError::internal)?;
        let (link, listener) = made.map_err(ApiError::internal)?;
        let listener = TcpListener::from_std(listener).map_err(ApiError::internal)?;
        let far: Arc<Far> = Arc::default();
        let task = tokio::spawn(Arc::clone(&far).accept(listener)).abort_handle();
        Ok(Route { link: Arc::new(link), far, _task: Task(task), files })
    }
}
