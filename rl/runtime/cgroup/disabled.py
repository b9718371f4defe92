"""No cgroup: asked for, or all there is. Limits are refused, with the reason."""

from __future__ import annotations

from rl.runtime.cgroup.group import is_no_limit
from rl.runtime.cgroup.limits import settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Disabled:
    """The manager that makes nothing; ``reason`` and ``hint`` say why."""

    kind = "disabled"
    path = ""
    procs_path = ""

    def __init__(self, reason: str, hint: str = "") -> None:
        self.reason = reason
        self.hint = hint

    def prepare(self) -> None:
        """Nothing."""

    def attach(self, pid: int) -> None:
        """Nothing: the process stays where it is."""

    def apply(self, resources: dict[str, Any]) -> list[str]:
        """Every limit, as one that cannot be had."""
        return [f"{setting.what}: {self.reason}" for setting in settings(resources) if not is_no_limit(setting)]
