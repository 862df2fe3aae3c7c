//! What an ordinary user can do: the same as root, in a user namespace, but for names and steering.
//!
//! Not on the usual test harness: that has started threads when a test runs, and only a process with a single thread
//! may enter a user namespace.

use std::process::ExitCode;

use faultwire::device::steer::{SteerError, Steering};
use faultwire::device::{Granted, Offload, Tun, TunOptions};
use faultwire::net::{LinkSetup, NetError, Netns, cleanup, link, privilege, userns};

fn main() -> ExitCode {
    // The whole claim: nothing but a user namespace and /dev/net/tun is needed.
    userns::enter_user_namespace()
        .unwrap_or_else(|closed| panic!("this test needs a user namespace: {closed}"));
    privilege::check().unwrap_or_else(|closed| panic!("this test makes TUN devices: {closed}"));
    let netns = Netns::anonymous().expect("root of a user namespace makes network namespaces");
    devices_and_addresses(&netns);
    names_are_refused_and_nothing_is_left();
    let threads = std::thread::scope(|scope| scope.spawn(userns::enter_user_namespace).join());
    assert!(matches!(threads, Ok(Err(userns::UserNamespaceError::Threads(2)))), "{threads:?}");
    println!("test user_namespace ... ok");
    ExitCode::SUCCESS
}

fn devices_and_addresses(netns: &Netns) {
    let options = TunOptions { name: "fw0", netns, queues: 2, offload: Offload::Uso };
    let (queues, granted) = Tun::open(&options).expect("a device can be made");
    assert_eq!(granted, Granted { offload: Offload::Uso });
    let setup = LinkSetup {
        mtu: 1400,
        tx_queue_len: Some(1000),
        addresses: vec![
            "10.9.0.1/24".parse().expect("it is a prefix"),
            "fd09::1/64".parse().expect("so is this"),
        ],
        routes: vec!["0.0.0.0/0".parse().expect("the default route")],
    };
    link::configure(netns, "fw0", &setup).expect("addresses and routes can be set");
    assert_eq!(link::stats(netns, "fw0").expect("it has counters").tx_dropped, 0);
    match Steering::load() {
        Ok(steering) => steering.attach(&queues[0]).expect("the device takes the program"),
        Err(SteerError::NotPermitted(_)) => {}
        Err(other) => panic!("a missing privilege is to be told as such: {other}"),
    }
}

fn names_are_refused_and_nothing_is_left() {
    let name = format!("fw-userns-{}", std::process::id());
    let error = Netns::create_named(&name).expect_err("the host's mounts are not ours");
    assert!(matches!(error, NetError::File { .. }), "{error}");
    assert!(!std::path::Path::new("/run/netns").join(name).exists());
    cleanup::sweep().expect("there is nothing of ours to sweep");
}
