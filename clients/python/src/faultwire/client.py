"""The control socket of an instance: HTTP with JSON on a Unix socket."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Optional, Union
from urllib.parse import quote, urlencode


class FaultwireError(Exception):
    """What this package raises."""


class RequestError(FaultwireError):
    """A request that the instance refused; nothing has changed."""

    def __init__(self, status: int, error: str, field: str = "") -> None:
        where = f" ({field})" if field else ""
        super().__init__(f"{status}: {error}{where}")
        #: The status of the answer: 400 (wrong), 404 (not there), 409, 412, 503 (the run ends).
        self.status = status
        #: Why.
        self.error = error
        #: The part of the request that is wrong; empty: all of it.
        self.field = field


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: Optional[float]) -> None:
        super().__init__("faultwire", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Client:
    """Asks and changes a running instance.

    ``path`` is that of its socket; without it, ``$FAULTWIRE_CONTROL``, as the command of ``exec`` has it. ``timeout`` is in seconds,
    of each request. A connection is made for each request, so a client can be used by several threads.
    """

    def __init__(self, path: Union[str, os.PathLike[str], None] = None, timeout: float = 10.0) -> None:
        if path is None:
            try:
                path = os.environ["FAULTWIRE_CONTROL"]
            except KeyError:
                raise FaultwireError("no path of a control socket is given, and FAULTWIRE_CONTROL is not set") from None
        self.path = Path(path)
        self.timeout = timeout

    def __repr__(self) -> str:
        return f"Client({str(self.path)!r})"

    # Reading.

    def state(self) -> dict[str, Any]:
        """Command, process, seed, time since the start, totals."""
        answer: dict[str, Any] = self.get("/v1/state")
        return answer

    def ports(self) -> list[dict[str, Any]]:
        """Ports with their addresses and devices."""
        answer: list[dict[str, Any]] = self.get("/v1/ports")
        return answer

    def paths(self) -> list[dict[str, Any]]:
        """Paths and the names of their stages, in order."""
        answer: list[dict[str, Any]] = self.get("/v1/paths")
        return answer

    def stages(self) -> list[dict[str, Any]]:
        """Stages: what they do, and their counters."""
        answer: list[dict[str, Any]] = self.get("/v1/stages")
        return answer

    def stage(self, stage: str) -> dict[str, Any]:
        """One stage, as ``PATH/NAME``."""
        for one in self.stages():
            if one["id"] == stage:
                return one
        raise RequestError(404, f"there is no stage {stage}", "stage")

    def counters(self) -> dict[str, Any]:
        """All that changes, in one answer."""
        answer: dict[str, Any] = self.get("/v1/counters")
        return answer

    def events(
        self,
        kinds: Sequence[str] = ("dropped",),
        path: Optional[str] = None,
        match: Optional[str] = None,
        sample: Optional[int] = None,
    ) -> Events:
        """What happens to packets from now on, one dictionary each. Close it, or use it in a ``with`` statement."""
        wanted = {"kinds": ",".join(kinds), "path": path, "match": match, "sample": sample}
        query = urlencode({name: value for name, value in wanted.items() if value is not None})
        return Events(self, f"/v1/events?{query}")

    # Changing.

    def set(self, path: str, stage: str, spec: str) -> None:
        """The stage does something else; to which packets and when stays."""
        self.request("PATCH", _stage(path, stage), {"spec": spec})

    def add(self, path: str, spec: str, before: Optional[str] = None) -> None:
        """More stages: in front of the stage ``before``, or at the end."""
        body = {"spec": spec} if before is None else {"spec": spec, "before": before}
        self.request("POST", f"{_path(path)}/stages", body)

    def remove(self, path: str, stage: str) -> None:
        """One stage less."""
        self.request("DELETE", _stage(path, stage))

    def pause(self, path: str, stage: str) -> None:
        """The stage acts on nothing."""
        self.request("PATCH", _stage(path, stage), {"paused": True})

    def resume(self, path: str, stage: str) -> None:
        """The stage acts again."""
        self.request("PATCH", _stage(path, stage), {"paused": False})

    def freeze(self, path: str) -> None:
        """What comes waits in front of the path."""
        self.request("PATCH", _path(path), {"frozen": True})

    def release(self, path: str) -> None:
        """What waits in front of the path goes on."""
        self.request("PATCH", _path(path), {"frozen": False})

    def apply(self, specs: Mapping[str, str]) -> None:
        """All stages of these paths at once, or none; an empty spec is no stages."""
        body: dict[str, dict[str, Any]] = {
            name: {"spec": spec} if spec.strip() else {"stages": []} for name, spec in specs.items()
        }
        self.request("PUT", "/v1/paths", body)

    # Requests.

    def get(self, resource: str) -> Any:
        """The answer of a ``GET``."""
        return self.request("GET", resource)

    def request(self, method: str, resource: str, body: Any = None) -> Any:
        """The answer of any request, read as JSON."""
        connection = _Connection(str(self.path), self.timeout)
        try:
            response = self._send(connection, method, resource, body)
            return json.loads(response.read() or b"null")
        finally:
            connection.close()

    def _send(
        self, connection: _Connection, method: str, resource: str, body: Any = None
    ) -> http.client.HTTPResponse:
        text = None if body is None else json.dumps(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            connection.request(method, resource, text, headers)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise FaultwireError(f"the instance at {self.path} does not answer: {error}") from error
        if response.status < 400:
            return response
        answer = response.read().decode(errors="replace")
        try:
            said = json.loads(answer)
            raise RequestError(response.status, said["error"], said.get("field", ""))
        except (ValueError, KeyError, TypeError):
            raise RequestError(response.status, answer) from None


class Events:
    """Events of an instance, as they happen. The first one that is given back comes after the instance has begun to listen."""

    def __init__(self, client: Client, resource: str) -> None:
        self._connection = _Connection(str(client.path), client.timeout)
        try:
            self._response = client._send(self._connection, "GET", resource)
            # From this line on all workers tell what happens.
            self._response.readline()
            assert self._connection.sock is not None
            self._connection.sock.settimeout(None)
        except BaseException:
            self._connection.close()
            raise
        self._socket = self._connection.sock

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        try:
            line = self._response.readline()
        except (OSError, ValueError, http.client.HTTPException):
            # The run has ended, or another thread has closed this.
            raise StopIteration from None
        if not line:
            raise StopIteration
        event: dict[str, Any] = json.loads(line)
        return event

    def close(self) -> None:
        """No more events: whoever waits for one gets none."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _path(name: str) -> str:
    return f"/v1/paths/{quote(name, safe='')}"


def _stage(path: str, stage: str) -> str:
    return f"{_path(path)}/stages/{quote(stage, safe='')}"
