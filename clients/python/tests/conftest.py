"""An upstream for the tests, and a neighbour that faultwire has not made."""

import os
import socket
import subprocess
import threading
from collections.abc import Iterator

import pytest


class Echo:
    """A TCP service that gives back what it gets, in the namespace in which it is made."""

    def __init__(self, address: str) -> None:
        self._listener = socket.create_server((address, 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    @staticmethod
    def _serve(client: socket.socket) -> None:
        with client:
            try:
                while data := client.recv(65536):
                    client.sendall(data)
            except OSError:
                pass

    def close(self) -> None:
        self._listener.close()


class Neighbour:
    """A process in a namespace of its own, at the other end of a veth pair."""

    #: Of this host, as the neighbour reaches it.
    host = "10.213.7.1"

    def __init__(self) -> None:
        self._device = f"fwpy{os.getpid() % 100000}"
        self._process = subprocess.Popen(
            ["unshare", "-n", "sh", "-c", "echo; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()
        self.pid = self._process.pid
        ip = ["ip", "link", "add", self._device, "type", "veth", "peer", "name", "eth0", "netns", str(self.pid)]
        subprocess.run(ip, check=True)
        subprocess.run(["ip", "address", "add", f"{self.host}/30", "dev", self._device], check=True)
        subprocess.run(["ip", "link", "set", self._device, "up"], check=True)
        self.run("ip", "address", "add", "10.213.7.2/30", "dev", "eth0").check_returncode()
        self.run("ip", "link", "set", "eth0", "up").check_returncode()
        self.run("ip", "route", "add", "default", "via", self.host).check_returncode()

    def run(self, *command: str) -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run(["nsenter", "-t", str(self.pid), "-n", *command], capture_output=True)

    def pings(self) -> bool:
        return self.run("ping", "-q", "-c", "2", "-i", "0.05", "-W", "1", self.host).returncode == 0

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        # With the namespace it goes, too, but some time later.
        subprocess.run(["ip", "link", "delete", self._device], stderr=subprocess.DEVNULL)


@pytest.fixture
def neighbour() -> Iterator[Neighbour]:
    one = Neighbour()
    yield one
    one.close()


@pytest.fixture
def echo_at() -> Iterator[type[Echo]]:
    made: list[Echo] = []

    def make(address: str) -> Echo:
        made.append(Echo(address))
        return made[-1]

    yield make  # type: ignore[misc]
    for echo in made:
        echo.close()
