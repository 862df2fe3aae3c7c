//! `faultwire attach` to real containers, of podman with runc.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;

use faultwire::net::Netns;

use crate::system::attach::{Attached, elapsed, field};
use crate::system::common::{output, said, tool, unique, until};

/// nginx with the libraries that it is linked to, and a static busybox.
const PROGRAMS: [&str; 1] = ["/usr/sbin/nginx"];
const BUSYBOX: &str = "/usr/bin/busybox";
const NGINX: &str = "daemon off; master_process off; user root; error_log /dev/null; pid /tmp/nginx.pid;\n\
    events { worker_connections 64; }\n\
    http { access_log off; keepalive_timeout 600s; client_body_temp_path /tmp/a; proxy_temp_path /tmp/b;\n\
    fastcgi_temp_path /tmp/c; uwsgi_temp_path /tmp/d; scgi_temp_path /tmp/e;\n\
    server { listen 80; location / { return 200 'answered\\n'; } } }\n";

/// The output of podman, which must succeed.
fn podman(arguments: &[&str]) -> String {
    let output = tool("podman")
        .args(["--runtime", "runc"])
        .args(arguments)
        .output()
        .expect("podman and runc are installed (testbed/run does that)");
    assert!(output.status.success(), "podman {arguments:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A network of podman with containers of one image; removed with this value.
struct Pod {
    name: String,
    folder: PathBuf,
    containers: Vec<String>,
}

impl Pod {
    fn new() -> Self {
        let name = format!("faultwire-{}", unique());
        let folder = std::env::temp_dir().join(&name);
        let pod = Self { name, folder, containers: Vec::new() };
        pod.import();
        podman(&["network", "create", &pod.name]);
        pod
    }

    /// An image from the files of this host: no registry is asked.
    fn import(&self) {
        let root = self.folder.join("root");
        let copy = |from: &Path| {
            let to = root.join(from.strip_prefix("/").unwrap());
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(from, to)
                .unwrap_or_else(|error| panic!("{}: {error} (testbed/run installs it)", from.display()));
        };
        copy(Path::new(BUSYBOX));
        for program in PROGRAMS {
            copy(Path::new(program));
            let libraries = said(&tool("ldd").arg(program).output().unwrap());
            libraries
                .split_whitespace()
                .filter(|word| word.starts_with('/'))
                .for_each(|word| copy(Path::new(word)));
        }
        for folder in ["etc", "tmp", "var/log/nginx", "var/lib/nginx", "proc", "dev"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::write(root.join("etc/nginx.conf"), NGINX).unwrap();
        fs::write(root.join("etc/passwd"), "root:x:0:0::/:/usr/bin/busybox\n").unwrap();
        fs::write(root.join("etc/group"), "root:x:0:\n").unwrap();
        let archive = self.folder.join("root.tar");
        let (archive, root) = (archive.to_str().unwrap(), root.to_str().unwrap());
        assert!(tool("tar").args(["-C", root, "-cf", archive, "."]).status().unwrap().success());
        podman(&["import", "-q", archive, &self.name]);
    }

    fn start(&mut self) -> Container {
        self.start_named(format!("{}-{}", self.name, self.containers.len()))
    }

    /// Starts a container with nginx, and waits until it answers.
    fn start_named(&mut self, name: String) -> Container {
        self.containers.push(name.clone());
        // runc may not raise limits here, so the given limits are not above those of this process.
        let limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"];
        let head = ["run", "-d", "--name", &name, "--network", &self.name];
        let tail = [self.name.as_str(), "/usr/sbin/nginx", "-c", "/etc/nginx.conf"];
        let id = podman(&[&head[..], &limits, &tail].concat());
        let container = Container { name, id };
        container.wait();
        container
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let quietly =
            |arguments: &[&str]| drop(tool("podman").args(["--runtime", "runc"]).args(arguments).output());
        for name in &self.containers {
            quietly(&["rm", "-f", "-t", "0", name]);
        }
        quietly(&["network", "rm", "-f", &self.name]);
        quietly(&["rmi", "-f", &self.name]);
        let _ = fs::remove_dir_all(&self.folder);
    }
}

struct Container {
    name: String,
    id: String,
}

impl Container {
    fn inspect(&self, what: &str) -> String {
        podman(&["inspect", &self.name, "--format", what])
    }

    fn pid(&self) -> String {
        self.inspect("{{.State.Pid}}")
    }

    fn address(&self) -> String {
        self.inspect("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")
    }

    fn server(&self) -> SocketAddr {
        format!("{}:80", self.address()).parse().unwrap()
    }

    fn wait(&self) {
        let server = self.server();
        until("nginx listens in the container", || TcpStream::connect(server).is_ok());
    }

    fn netns(&self) -> Netns {
        Netns::path(format!("/proc/{}/ns/net", self.pid())).unwrap()
    }

    /// Devices in the container.
    fn devices(&self) -> Vec<String> {
        let netns = self.netns();
        let mut names: Vec<String> =
            faultwire::net::lookup::devices(&netns).unwrap().into_iter().map(|device| device.name).collect();
        names.sort();
        names
    }
}

/// A connection that stays open over several requests.
struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(server: SocketAddr) -> Self {
        let stream = TcpStream::connect(server).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self(BufReader::new(stream))
    }

    /// The time from a request until its complete answer.
    fn get(&mut self) -> Duration {
        elapsed(|| {
            self.0.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: container\r\n\r\n").unwrap();
            let mut length = 0;
            loop {
                let mut line = String::new();
                assert!(self.0.read_line(&mut line).unwrap() > 0, "nginx closed the connection");
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if line == "\r\n" {
                    break;
                }
            }
            let mut body = vec![0; length];
            self.0.read_exact(&mut body).unwrap();
            assert_eq!(body, b"answered\n");
        })
    }
}

const SLOW: Duration = Duration::from_millis(100);

#[test]
fn an_open_connection_to_a_container_goes_on_however_it_is_named() {
    let mut pod = Pod::new();
    let container = pod.start();
    let mut client = Client::connect(container.server());
    client.get();
    let before = container.devices();
    let pid = container.pid();
    let upper = container.id[..8].to_uppercase();
    for target in [
        ["--container", &container.name],
        ["--container", &container.id],
        ["--container", &container.id[..12]],
        ["--container", &upper],
        ["--pid", &pid],
    ] {
        let attached = Attached::start(&[&target[..], &["--both", "delay 50ms"]].concat());
        assert!(client.get() >= SLOW, "{target:?}");
        assert_eq!(container.devices().len(), before.len() + 2);
        let summary = attached.stop(Signal::SIGINT);
        assert!(field(&summary, "/hit") >= 2, "{target:?}: {summary:#}");
        client.get();
        assert_eq!(container.devices(), before, "{target:?}");
    }
    // A part of the name does not identify the container.
    let short = &container.name[..container.name.len() - 1];
    let refused = output(&["attach", "--container", short, "--both", "delay 1ms"]);
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    assert!(said(&refused).contains("there is no running container"), "{}", said(&refused));
}

/// A name of hexadecimal digits may be the beginning of another container's ID.
#[test]
fn a_name_comes_before_the_beginning_of_an_id() {
    let mut pod = Pod::new();
    let other = pod.start();
    let named = pod.start_named(other.id[..8].to_owned());
    let mut clients = [Client::connect(other.server()), Client::connect(named.server())];
    let attached = Attached::start(&["--container", &named.name, "--both", "delay 50ms"]);
    assert!(clients[1].get() >= SLOW);
    clients[0].get();
    let summary = attached.stop(Signal::SIGINT);
    // Nine digits are no name.
    let attached = Attached::start(&["--container", &other.id[..9], "--both", "delay 50ms"]);
    assert!(clients[0].get() >= SLOW, "{summary:#}");
    attached.stop(Signal::SIGINT);
}

#[test]
fn a_restarted_container_is_another_target_of_the_same_name() {
    let mut pod = Pod::new();
    let container = pod.start();
    let mut attached = Attached::start(&["--container", &container.name, "--both", "delay 50ms"]);
    podman(&["restart", "-t", "0", &container.name]);
    attached.wait_for(&format!("container {} has ended", container.name));
    assert_eq!(attached.summary(0)["ended_by"], "target");
    container.wait();
    let mut client = Client::connect(container.server());
    client.get();
    let attached = Attached::start(&["--container", &container.name, "--both", "delay 50ms"]);
    assert!(client.get() >= SLOW);
    attached.stop(Signal::SIGTERM);
    // A stopped container has no network.
    podman(&["stop", "-t", "0", &container.name]);
    let refused = output(&["attach", "--container", &container.name, "--both", "delay 1ms"]);
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
}

#[test]
fn only_the_traffic_between_two_containers_is_hit() {
    let mut pod = Pod::new();
    let (service, database) = (pod.start(), pod.start());
    let expression = format!("tcp port 80 and host {}", database.address());
    let options = ["--container", &service.name, "--match", &expression, "--both", "delay 50ms"];
    let mut between = service.netns().run(|| Client::connect(database.server())).unwrap();
    let mut from_host = [Client::connect(service.server()), Client::connect(database.server())];
    let attached = Attached::start(&options);
    for client in &mut from_host {
        client.get();
    }
    let summary = attached.stop(Signal::SIGINT);
    assert_eq!(field(&summary, "/hit"), 0, "{summary:#}");
    // These packets went through faultwire: a request up or down, and its answer.
    assert!(field(&summary, "/hooks/up/detoured") >= 1, "{summary:#}");
    assert!(field(&summary, "/hooks/down/detoured") >= 1, "{summary:#}");
    let attached = Attached::start(&options);
    assert!(between.get() >= SLOW);
    let summary = attached.stop(Signal::SIGINT);
    assert!(field(&summary, "/hit") >= 2, "{summary:#}");
}
