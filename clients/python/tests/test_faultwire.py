"""Links, attachments and the control socket, with a real instance each."""

import os
import socket
import subprocess
import sys
import time

import pytest

from faultwire import Attachment, Client, Faults, FaultwireError, Instance, Link, RequestError, StartError, namespace


def exchange(address, port, count=10):
    """Seconds that an exchange takes on a connection that is open."""
    with socket.create_connection((address, port), timeout=60) as client:
        start = time.monotonic()
        client.sendall(b"x" * count)
        while count > 0:
            count -= len(client.recv(65536))
        return time.monotonic() - start


def test_a_client_inside_meets_a_server_on_this_host(echo_at):
    with Link("delay 50ms", seed=7) as link:
        echo = echo_at(link.host)
        with link.inside():
            assert exchange(link.host, echo.port) >= 0.1
            here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            here.bind((link.address, 0))
            here.close()
        # This thread is back.
        with pytest.raises(OSError):
            socket.create_server((link.address, 0))
        link.set()
        with link.inside():
            assert exchange(link.host, echo.port) < 0.1
        state = link.client.state()
        assert (state["command"], state["seed"]) == ("exec", 7)
    assert not link.is_running
    assert not os.path.exists(link.client.path)


def test_a_server_inside_is_reached_from_this_host(echo_at):
    with Link(down="delay 80ms") as link:
        with link.inside():
            echo = echo_at(link.address)
        assert exchange(link.address, echo.port) >= 0.08
        result = link.run(["sh", "-c", "cat /proc/net/dev"], capture_output=True, text=True, check=True)
        assert "fw0" in result.stdout


def test_stages_are_changed_while_packets_pass():
    with Link(seed=3) as link:
        client = link.client
        ping = ["ping", "-q", "-c", "3", "-i", "0.05", "-W", "1", link.host]
        assert link.run(ping, capture_output=True).returncode == 0
        client.add("up", "loss 100%")
        assert link.run(ping, capture_output=True).returncode == 1
        stage = client.stages()[0]
        assert stage["dropped"]["loss"]["packets"] == 3
        assert client.stage(stage["id"])["type"] == stage["type"]
        deadline = time.monotonic() + 30
        while len(link.drops()) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert [drop["reason"] for drop in link.drops()] == ["loss"] * 3
        report = link.report()
        assert report.startswith("seed 3, faults: none\nup/") and "3 dropped (loss)" in report, report
        client.pause("up", stage["name"])
        assert link.run(ping, capture_output=True).returncode == 0
        client.resume("up", stage["name"])
        client.set("up", stage["name"], "loss 0%")
        assert link.run(ping, capture_output=True).returncode == 0
        client.remove("up", stage["name"])
        assert client.stages() == []
        client.freeze("up")
        client.release("up")
        link.set("delay 1ms", up="loss 1%")
        assert [len(path["stages"]) for path in client.paths()] == [2, 1]


def test_what_is_refused_says_why():
    with Link() as link:
        with pytest.raises(RequestError) as refused:
            link.set("lost 5%")
        assert refused.value.status == 400
        assert "loss" in refused.value.error
        with pytest.raises(RequestError) as missing:
            link.client.remove("up", "nothing")
        assert missing.value.status == 404
        with pytest.raises(RequestError):
            link.client.events(["weather"])
    with pytest.raises(FaultwireError, match="does not answer"):
        link.client.state()
    with pytest.raises(StartError, match="did you mean"):
        Link("lost 5%")
    with pytest.raises(StartError, match="cannot be started"):
        Link(binary="/nowhere/faultwire")
    with pytest.raises(StartError, match="not found"):
        Attachment(pid=1, binary="/nowhere/faultwire")


def test_a_process_is_attached_to(neighbour, echo_at):
    assert neighbour.pings()
    with Attachment("loss 100%", pid=neighbour.pid, match="icmp", seed=9) as attachment:
        assert not neighbour.pings()
        attachment.set("delay 30ms")
        assert neighbour.pings()
        # New faults have the aim of the first ones: what is no ICMP passes.
        attachment.set("loss 100%")
        assert not neighbour.pings()
        echo = echo_at(neighbour.host)
        with namespace.entered(f"/proc/{neighbour.pid}/ns/net"):
            exchange(neighbour.host, echo.port)
        state = attachment.client.state()
        assert (state["command"], state["seed"]) == ("attach", 9)
    # It goes on as before.
    assert neighbour.pings()
    with pytest.raises(StartError):
        Attachment("loss 1%", netns="/nowhere")


@pytest.mark.parametrize("error", [FaultwireError("no"), KeyboardInterrupt()])
def test_an_error_at_the_start_leaves_no_process(monkeypatch, neighbour, error):
    started = []
    start = Instance._start

    def kept(instance, *options, **streams):
        process = start(instance, *options, **streams)
        started.append((process, instance.client.path.parent))
        return process

    def fails(*_):
        raise error

    monkeypatch.setattr(Instance, "_start", kept)
    monkeypatch.setattr(Client, "ports", fails)
    with pytest.raises(type(error)):
        Link()
    monkeypatch.setattr(Instance, "_await", fails)
    with pytest.raises(type(error)):
        Attachment("loss 1%", pid=neighbour.pid)
    assert len(started) == 2
    for process, folder in started:
        assert process.poll() is not None
        assert not folder.exists()


@pytest.mark.parametrize("what", ["Link()", "Attachment('loss 1%', pid={pid})"])
def test_what_a_killed_process_started_ends(what, neighbour):
    code = (
        "import faultwire, os, signal\n"
        f"one = faultwire.{what.format(pid=neighbour.pid)}\n"
        "print(one._process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    pid = int(done.stdout)
    deadline = time.monotonic() + 60
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not os.path.exists(f"/proc/{pid}")
    assert neighbour.pings()


def test_faults_are_joined_in_order():
    faults = Faults("delay 1ms", up="loss 1%")
    assert faults.paths() == {"up": "delay 1ms; loss 1%", "down": "delay 1ms"}
    assert faults.options() == ["--both", "delay 1ms", "--up", "loss 1%"]
    assert str(faults) == "both 'delay 1ms', up 'loss 1%'"
    assert Faults().paths() == {"up": "", "down": ""}


def test_a_client_needs_a_socket(monkeypatch):
    monkeypatch.delenv("FAULTWIRE_CONTROL", raising=False)
    with pytest.raises(FaultwireError, match="FAULTWIRE_CONTROL"):
        Client()
    monkeypatch.setenv("FAULTWIRE_CONTROL", "/nowhere.sock")
    assert str(Client().path) == "/nowhere.sock"
