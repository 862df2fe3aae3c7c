"""Start, attach and steer faultwire, which breaks packets on purpose, reproducibly.

- `Link`: a network namespace behind a link with faults; commands and sockets of this process can be put into it.
- `Attachment`: faults on a device that already runs, of a process, a container, a namespace or this host.
- `Client`: the control socket of an instance that runs.

`faultwire.pytest_plugin` has the fixtures and the mark for pytest.
"""

from .client import Client, FaultwireError, RequestError
from .faults import Faults
from .process import Attachment, Instance, Link, StartError

__all__ = [
    "Attachment",
    "Client",
    "Faults",
    "FaultwireError",
    "Instance",
    "Link",
    "RequestError",
    "StartError",
]
