"""What containers.conf says about the network, and what the host's network programs can; remembered for this boot.

Asking pasta for its options costs 5 ms, so they are kept in a file of the runtime directory, with the modification
time of the program. A start pays one stat(2). containers.conf itself is read by rl.config.containersconf.

Called by setup.py and files.py.
"""

from __future__ import annotations

from rl.config import containersconf
from rl.config.jsonio import read_json, write_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_VERSION = 3


def remembered(run: str) -> Memory:
    """What is known for this boot, from *run* (Paths.run); facts that changed since are asked again."""
    global _last
    path = f"{run}/network.json"
    if _last is None or _last.path != path:
        _last = Memory(path)
    return _last


_last: Memory | None = None


class Memory:
    """Facts with what they depend on. ``get`` computes what is missing or stale; ``save`` keeps it."""

    __slots__ = ("_changed", "_facts", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self._changed = False
        self._facts: dict[str, list[Any]] = {}
        try:
            record = read_json(path)
            if isinstance(record, dict) and record.get("version") == _VERSION:
                self._facts = record["facts"]
        except (OSError, ValueError, KeyError):
            pass

    def config(self) -> dict[str, Any]:
        """What containers.conf says (rl.config.containersconf)."""
        return containersconf.load(self.path.rpartition("/")[0])

    def program(self, executable: str) -> frozenset[str]:
        """The long options that ``executable --help`` names."""
        stamp = [containersconf.file_stamp(executable)]
        known = self._facts.get(executable)
        if known and known[0] == stamp:
            return frozenset(known[1])
        return frozenset(self._learn(executable, stamp, _long_options(_output(executable, "--help"))))

    def _learn(self, name: str, stamp: object, value: Any) -> Any:
        self._facts[name] = [stamp, value]
        self._changed = True
        return value

    def save(self) -> None:
        """Write down what was learnt, if anything; a full disk only costs the next start some time."""
        if self._changed:
            try:
                write_json(self.path, {"version": _VERSION, "facts": self._facts}, sync=False)
                self._changed = False
            except OSError:
                pass


def _long_options(help_text: str) -> list[str]:
    words = (word.strip(",.[]()").partition("=")[0] for word in help_text.split())
    return sorted({word for word in words if word.startswith("--") and len(word) > 2})


def _output(executable: str, *arguments: str) -> str:
    """Both output streams of a short command, "" if it cannot be run. Ended after five seconds."""
    from rl.network.helper import Helper

    helper = Helper([executable, *arguments], "/")
    try:
        return helper.read_all(5000)
    finally:
        helper.kill()


def version(executable: str) -> str:
    """The first line of ``executable --version`` that names a version, for people."""
    for line in _output(executable, "--version").splitlines():
        if "version" in line or line.startswith("pasta "):
            return line.strip()
    return "unknown version"
