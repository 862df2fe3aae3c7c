"""Instances that this process starts, and that end with it."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Optional, TypeVar

from . import namespace
from .client import Client, Events, FaultwireError
from .faults import Faults

#: How long an instance may take to start and to end, in seconds.
PATIENCE = 60.0
#: Drops that are kept for a report.
KEPT = 1000
#: Of them, as many are shown.
SHOWN = 20

Self = TypeVar("Self", bound="Instance")


class StartError(FaultwireError):
    """An instance that did not start; the text is what it said."""


class Instance:
    """A running ``faultwire``. Use it in a ``with`` statement, or call :meth:`stop`.

    ``seed`` is that of all random decisions; ``client`` asks and changes it.
    """

    #: The subcommand.
    command = ""
    #: What starts it.
    _starter: tuple[str, ...] = ()

    def __init__(self, faults: Faults, seed: Optional[int], binary: Optional[str]) -> None:
        self.faults = faults
        self.seed = secrets.randbelow(2**32) if seed is None else seed
        self.binary = binary or os.environ.get("FAULTWIRE") or "faultwire"
        self._folder = tempfile.mkdtemp(prefix="faultwire-")
        self.client = Client(Path(self._folder, "control.sock"))
        self._said: list[str] = []
        self._drops: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._lost = 0
        self._events: Optional[Events] = None
        self._last: list[dict[str, Any]] = []
        self._process: Optional[subprocess.Popen[str]] = None

    @contextmanager
    def _stopped_by_errors(self) -> Iterator[None]:
        """Nobody has the instance yet: an error, or Ctrl-C, must not leave its process."""
        try:
            yield
        except BaseException:
            self.stop()
            raise

    def _start(self, options: Sequence[str], **streams: Any) -> subprocess.Popen[str]:
        words = [*self._starter, self.binary, self.command, *self.faults.options(), "--seed", str(self.seed)]
        words += ["--control", str(self.client.path), *options]
        try:
            process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", **streams
            )
        except OSError as error:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise StartError(f"{self.binary} cannot be started: {error}") from error
        self._process = process
        self._reader = threading.Thread(target=self._read, args=(process.stderr,), daemon=True)
        self._reader.start()
        return process

    def _read(self, stderr: IO[str]) -> None:
        for line in stderr:
            self._said.append(line)

    def _await(self) -> None:
        """Waits until the instance answers, and listens to its drops from then on."""
        assert self._process is not None
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self._events = self.client.events(["dropped"])
                break
            except FaultwireError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    raise StartError(self.said().strip() or str(error)) from None
                time.sleep(0.01)
        threading.Thread(target=self._listen, args=(self._events,), daemon=True).start()

    def _listen(self, events: Events) -> None:
        for event in events:
            if event.get("kind") == "lost":
                self._lost += event.get("events", 0)
            elif event.get("kind") == "dropped":
                self._drops.append(event)

    def set(self, both: Optional[str] = None, up: Optional[str] = None, down: Optional[str] = None) -> None:
        """Puts these faults in place of those that there are, while packets pass; without any, there are none.

        What the old ones hold leaves first, as it would have.
        """
        faults = Faults(both, up, down)
        self.client.apply(faults.paths())
        self.faults = faults

    def drops(self) -> list[dict[str, Any]]:
        """The latest drops, oldest first, as ``faultwire journal --json`` shows them."""
        return list(self._drops)

    def said(self) -> str:
        """What it has printed on standard error."""
        return "".join(self._said)

    def report(self) -> str:
        """Seed, stages with what they did, and the latest drops, for people."""
        lines = [f"seed {self.seed}, faults: {self.faults}"]
        try:
            stages = self.client.stages()
        except FaultwireError:
            stages = self._last
        lines += [_stage_line(stage) for stage in stages]
        drops = self.drops()
        if len(drops) > SHOWN:
            lines.append(f"the last {SHOWN} of {len(drops)} drops:")
        lines += [_drop_line(drop) for drop in drops[-SHOWN:]]
        if self._lost:
            lines.append(f"{self._lost} more events came too fast to be kept")
        return "\n".join(lines)

    @property
    def is_running(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Ends it; what it made is gone afterwards. More than once is allowed."""
        process = self._process
        if process is not None:
            with suppress(FaultwireError):
                self._last = self.client.stages()
            if process.poll() is None:
                self._end(process)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            self._reader.join(PATIENCE)
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        if self._events is not None:
            self._events.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _end(self, process: subprocess.Popen[str]) -> None:
        process.send_signal(signal.SIGTERM)

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Link(Instance):
    """A network namespace whose only link has the faults: ``faultwire exec``.

    ``up`` is from the inside to this host, ``down`` the other way. Needs root, or the capabilities for namespaces and TUN devices.
    """

    command = "exec"
    #: Addresses of this host, as the inside reaches it.
    host: str
    host6: str
    #: Addresses of the inside, as this host reaches it.
    address: str
    address6: str

    def __init__(
        self,
        both: Optional[str] = None,
        up: Optional[str] = None,
        down: Optional[str] = None,
        *,
        seed: Optional[int] = None,
        mtu: Optional[int] = None,
        binary: Optional[str] = None,
    ) -> None:
        super().__init__(Faults(both, up, down), seed, binary)
        # It ends when its standard input does: with this process, however that ends.
        inside = ["sh", "-c", 'echo "$$ $FAULTWIRE_HOST $FAULTWIRE_HOST6"; exec cat']
        options = [] if mtu is None else ["--mtu", str(mtu)]
        with self._stopped_by_errors():
            process = self._start([*options, "--", *inside], stdout=subprocess.PIPE)
            assert process.stdout is not None
            line = process.stdout.readline().split()
            if len(line) != 3:
                self.stop()
                raise StartError(self.said().strip() or "faultwire exec ended without a word")
            self.pid, self.host, self.host6 = int(line[0]), line[1], line[2]
            self._await()
            inner = next(port for port in self.client.ports() if port["name"] == "cmd")
            self.address, self.address6 = (prefix.split("/")[0] for prefix in inner["addresses"])

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Puts this thread into the namespace. Sockets that are opened and commands that are started there stay there.

        Other threads stay where they are. Sockets that were opened before stay where they were opened.
        """
        with namespace.entered(f"/proc/{self.pid}/ns/net"):
            yield

    def run(self, command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[Any]:
        """:func:`subprocess.run` inside."""
        with self.inside():
            return subprocess.run(command, **options)

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """:class:`subprocess.Popen` inside. Whoever starts it ends it."""
        with self.inside():
            return subprocess.Popen(command, **options)

    def _end(self, process: subprocess.Popen[str]) -> None:
        # The command inside ends, and with it all.
        assert process.stdin is not None
        process.stdin.close()


class Attachment(Instance):
    """Faults on a device that already runs: ``faultwire attach``.

    One of ``pid``, ``container`` (name or ID) and ``netns`` (name or path) says whose device; with none of them ``dev`` is one of this
    host. ``match`` aims the faults: ``"tcp port 5432"``. It ends with this process, however that ends, and the traffic goes on.
    """

    command = "attach"
    # A second process waits for the end of standard input, which comes with the end of this process, and ends the attachment if it
    # is still its parent.
    _starter = (
        "sh",
        "-c",
        "exec 3<&0 </dev/null; main=$$;"
        " (cat; read -r _ _ _ parent _ < /proc/self/stat; [ $parent = $main ] && kill -TERM $main)"
        " <&3 >/dev/null 2>&1 3<&- & exec 3<&-; exec \"$@\"",
        "sh",
    )

    def __init__(
        self,
        both: Optional[str] = None,
        up: Optional[str] = None,
        down: Optional[str] = None,
        *,
        pid: Optional[int] = None,
        container: Optional[str] = None,
        netns: Optional[str] = None,
        dev: Optional[str] = None,
        match: Optional[str] = None,
        seed: Optional[int] = None,
        binary: Optional[str] = None,
    ) -> None:
        super().__init__(Faults(both, up, down), seed, binary)
        given = {"--pid": pid, "--container": container, "--netns": netns, "--dev": dev, "--match": match}
        options = [word for option, value in given.items() if value is not None for word in (option, str(value))]
        with self._stopped_by_errors():
            self._start(options, stdout=subprocess.DEVNULL)
            self._await()


def _stage_line(stage: dict[str, Any]) -> str:
    drops = ", ".join(f"{count['packets']} dropped ({reason})" for reason, count in stage["dropped"].items())
    counts = [f"{stage['seen']['packets']} seen", drops]
    counts += [f"{stage[what]['packets']} {what}" for what in ("delayed", "rewritten", "created") if stage[what]["packets"]]
    return f"{stage['id']}: {stage['text']}: " + ", ".join(count for count in counts if count)


def _drop_line(drop: dict[str, Any]) -> str:
    draw = drop.get("draw") or {}
    why = f", {draw['value']:.4g} < {draw['threshold']:.4g}" if draw else ""
    what = f"{drop.get('protocol', '')} {drop.get('source', '')} > {drop.get('destination', '')}"
    return f"  {drop.get('place', '?')}: dropped ({drop.get('reason', '?')}{why}): {what}, packet {drop.get('index', '?')}"
