//! Runs the steps of a case, each in the namespace of its host.

use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::thread::JoinHandle;

use crate::lab::case::{Kind, Run, Step, Target};
use crate::lab::clock;
use crate::lab::run::RunError;
use crate::lab::run::network::Lab;
use crate::lab::traffic::exec::Program;
use crate::lab::traffic::serve::{Serve, Server, Service};
use crate::lab::traffic::udp::Receiver;
use crate::lab::traffic::{connect, request, stream, trace, udp};
use crate::lab::value::{Facts, Observations};
use crate::net::{NetError, Netns, sysctl};

/// Backlog of a stream's receiver.
const BACKLOG: u16 = 16;

/// Steps in the background.
#[derive(Default)]
pub(super) struct Servers {
    built_in: Vec<(String, Server)>,
    programs: Vec<(String, Program)>,
    others: Vec<(String, JoinHandle<std::io::Result<Facts>>)>,
}

/// Runs all steps in order; background steps continue.
pub(super) fn play(run: &Run, lab: &Lab, observed: &mut Observations) -> Result<Servers, RunError> {
    let mut servers = Servers::default();
    for step in &run.traffic {
        servers.start(step, lab, observed)?;
    }
    servers.join(observed)?;
    Ok(servers)
}

impl Servers {
    fn start(&mut self, step: &Step, lab: &Lab, observed: &mut Observations) -> Result<(), RunError> {
        let prefix = format!("traffic.{}", step.name);
        let host = &lab.hosts[step.host];
        match &step.kind {
            Kind::Serve(serve) => {
                self.built_in.push((prefix, inside(step, host, || serve.start())?));
            }
            Kind::Exec(exec) if step.background => {
                self.programs.push((prefix, inside(step, host, || exec.start())?));
            }
            Kind::Sysctl(settings) => {
                set(&host.1, settings).map_err(|source| RunError::Host { host: host.0.clone(), source })?;
            }
            kind if step.background => {
                let (kind, peer) = (kind.clone(), peer(kind, lab));
                let netns = host.1.clone();
                let body = move || {
                    let net = |error: NetError| std::io::Error::other(error.to_string());
                    netns.run(|| act(&kind, peer.as_ref())).map_err(net)?
                };
                self.others.push((prefix, std::thread::spawn(body)));
            }
            kind => {
                let peer = peer(kind, lab);
                observed.add(&prefix, inside(step, host, || act(kind, peer.as_ref()))?);
            }
        }
        Ok(())
    }

    /// The counts of the servers so far.
    pub(super) fn observe(&self, observed: &mut Observations) {
        for (prefix, server) in &self.built_in {
            observed.add(prefix, server.tally().facts());
        }
    }

    /// Waits for background traffic that ends by itself.
    fn join(&mut self, observed: &mut Observations) -> Result<(), RunError> {
        for (prefix, thread) in self.others.drain(..) {
            let panicked = |_| std::io::Error::other("the thread panicked");
            let facts = thread.join().map_err(panicked).and_then(|facts| facts);
            observed
                .add(&prefix, facts.map_err(|source| RunError::Traffic { step: prefix.clone(), source })?);
        }
        Ok(())
    }

    /// Ends servers and programs.
    pub(super) fn stop(self, observed: &mut Observations) -> Result<(), RunError> {
        let error = |prefix: &str, source| RunError::Traffic { step: prefix.to_owned(), source };
        for (prefix, program) in self.programs {
            observed.add(&prefix, program.stop().map_err(|source| error(&prefix, source))?.facts());
        }
        for (prefix, server) in self.built_in {
            observed.add(&prefix, server.stop().facts());
        }
        Ok(())
    }
}

fn inside<R: Send>(
    step: &Step,
    (name, netns): &(String, Netns),
    work: impl FnOnce() -> std::io::Result<R> + Send,
) -> Result<R, RunError> {
    let host = |source| RunError::Host { host: name.clone(), source };
    let traffic = |source| RunError::Traffic { step: step.name.clone(), source };
    netns.run(work).map_err(host)?.map_err(traffic)
}

/// Sets a host's settings, written with dots as `sysctl(8)` does.
pub(super) fn set(netns: &Netns, settings: &[(String, String)]) -> Result<(), NetError> {
    settings.iter().try_for_each(|(name, value)| {
        let key = sysctl::key_of(name).ok_or_else(|| NetError::BadSetting(name.clone()))?;
        sysctl::write(netns, &key, value)
    })
}

/// The namespace at the other end, where traffic needs a receiver.
fn peer(kind: &Kind, lab: &Lab) -> Option<Netns> {
    match kind {
        Kind::Stream(target, _) | Kind::Udp(target, _) => target.host.map(|host| lab.hosts[host].1.clone()),
        _ => None,
    }
}

/// Does what `kind` says in the namespace of the calling thread.
fn act(kind: &Kind, peer: Option<&Netns>) -> std::io::Result<Facts> {
    match kind {
        // These need no receiver, or have one that was started before.
        Kind::Serve(_) | Kind::Sysctl(_) => Ok(Facts::new()),
        Kind::Wait(span) => {
            clock::pause(*span);
            Ok(Facts::new())
        }
        Kind::Request { to, request, count } => {
            let answers: Vec<_> = (0..*count).map(|_| request.send(socket(to))).collect();
            Ok(request::summary(&answers))
        }
        Kind::Connect(to, connect) => Ok(connect::summary(&connect.run(socket(to)))),
        Kind::Probe(to, probe) => Ok(probe.run(ipv4(to)?)?.facts()),
        Kind::Clients(to, clients) => Ok(clients.summary(&clients.run(ipv4(to)?)?)),
        Kind::Reuse(to, reuse) => Ok(reuse.run(ipv4(to)?)?.facts()),
        Kind::Talk(to, talk) => Ok(talk.run(socket(to)).facts()),
        Kind::Ping(to, ping) => Ok(ping.run(to.address)?.facts()),
        Kind::Trace(to, trace) => Ok(trace::summary(&trace.run(to.address)?, to.address)),
        Kind::Exec(exec) => Ok(exec.run()?.facts()),
        Kind::Stream(to, stream) => {
            let sink = Serve { port: to.port, service: Service::Sink, backlog: BACKLOG, workers: None };
            let server = peer.map(|peer| at(peer, || sink.start())).transpose()?;
            let sent = stream.send(socket(to));
            let tally = server.map(Server::stop).unwrap_or_default();
            Ok(stream::summary(&sent, &tally))
        }
        Kind::Udp(to, udp) => {
            let receiver =
                peer.map(|peer| at(peer, || Receiver::start(to.port, udp.settle, udp.answer))).transpose()?;
            let sent = udp.send(socket(to))?;
            let heard = receiver.map(Receiver::finish).unwrap_or_default();
            Ok(udp::summary(udp.count, &sent, &heard))
        }
    }
}

fn at<R: Send>(peer: &Netns, work: impl FnOnce() -> std::io::Result<R> + Send) -> std::io::Result<R> {
    peer.run(work).map_err(|error| std::io::Error::other(error.to_string()))?
}

/// The destination of segments that the lab builds itself.
fn ipv4(target: &Target) -> std::io::Result<SocketAddrV4> {
    match target.address {
        IpAddr::V4(address) => Ok(SocketAddrV4::new(address, target.port)),
        IpAddr::V6(_) => Err(std::io::Error::other("segments built packet by packet are IPv4")),
    }
}

const fn socket(target: &Target) -> SocketAddr {
    SocketAddr::new(target.address, target.port)
}
