"""Faults of both directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional


@dataclass(frozen=True)
class Faults:
    """Faults in the words of tc-netem and of faultwire, such as ``"delay 50ms loss 1%"``.

    ``both`` acts in each direction, before ``up`` (from the inside or the target) and ``down`` (towards it).
    """

    both: Optional[str] = None
    up: Optional[str] = None
    down: Optional[str] = None

    def options(self) -> list[str]:
        """The options of ``exec`` and ``attach``."""
        given = [("--both", self.both), ("--up", self.up), ("--down", self.down)]
        return [word for option, spec in given if spec for word in (option, spec)]

    def paths(self) -> dict[str, str]:
        """The spec of each path."""
        return {"up": _joined(self.both, self.up), "down": _joined(self.both, self.down)}

    def __str__(self) -> str:
        given = [("both", self.both), ("up", self.up), ("down", self.down)]
        return ", ".join(f"{name} {spec!r}" for name, spec in given if spec) or "none"


def _joined(*specs: Optional[str]) -> str:
    return "; ".join(spec for spec in specs if spec)
