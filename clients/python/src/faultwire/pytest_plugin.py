"""The pytest plugin: fixtures, the mark ``faults``, and what happened to packets in the report of a failed test."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Optional

import pytest

from .process import Attachment, Instance, Link, StartError

_INSTANCES = pytest.StashKey["list[Instance]"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faultwire")
    group.addoption("--faultwire", metavar="PATH", help="the program [default: $FAULTWIRE, or faultwire]")
    group.addoption(
        "--faultwire-seed",
        metavar="N",
        type=int,
        help="seed of all links and attachments [default: that of the mark, or a random one, which a failure prints]",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "faults(both, up=None, down=None, seed=None, mtu=None): faults of the test's faultwire_link, as "
        "@pytest.mark.faults('loss 30%')",
    )


@pytest.fixture
def faultwire_link(request: pytest.FixtureRequest) -> Generator[Link, None, None]:
    """A link with the faults of the test's mark, or none."""
    mark = request.node.get_closest_marker("faults")
    arguments = _arguments(*mark.args, **mark.kwargs) if mark else {}
    link = _started(Link, request, arguments)
    yield link
    link.stop()


@pytest.fixture
def faultwire_attach(request: pytest.FixtureRequest) -> Generator[Callable[..., Attachment], None, None]:
    """Attaches faults to what already runs, until the end of the test: ``faultwire_attach("loss 5%", pid=server.pid)``."""
    made: list[Attachment] = []

    def attach(both: Optional[str] = None, **arguments: Any) -> Attachment:
        made.append(_started(Attachment, request, {"both": both, **arguments}))
        return made[-1]

    yield attach
    for attachment in reversed(made):
        attachment.stop()


def _arguments(
    both: Optional[str] = None,
    up: Optional[str] = None,
    down: Optional[str] = None,
    seed: Optional[int] = None,
    mtu: Optional[int] = None,
) -> dict[str, Any]:
    return {"both": both, "up": up, "down": down, "seed": seed, "mtu": mtu}


def _started(kind: Any, request: pytest.FixtureRequest, arguments: dict[str, Any]) -> Any:
    seed = request.config.getoption("--faultwire-seed")
    if seed is not None:
        arguments = {**arguments, "seed": seed}
    try:
        instance = kind(binary=request.config.getoption("--faultwire"), **arguments)
    except StartError as error:
        pytest.fail(f"faultwire: {error}", pytrace=False)
    request.node.stash.setdefault(_INSTANCES, []).append(instance)
    return instance


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
    outcome = yield
    report = outcome.get_result()
    if not report.failed:
        return
    for instance in item.stash.get(_INSTANCES, []):
        again = f"run it again with --faultwire-seed {instance.seed}"
        report.sections.append((f"faultwire {instance.command}", f"{instance.report()}\n{again}"))
