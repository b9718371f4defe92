"""What containers.conf says about the network, and which programs this host has; remembered for this boot.

Parsing TOML costs 10 ms and asking pasta for its options 5, so both are kept in one file of the
runtime directory, with the modification times of everything they depend on. A start pays a few stat(2).

Called by setup.py and files.py. Source: containers.conf(5), tables [network], [containers], [engine].
"""

from __future__ import annotations

import os

from rl.config.jsonio import read_json, write_json
from rl.errors import RlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_VERSION = 2

#: (table, key, type): all that is read of containers.conf here.
_KEYS = (
    ("network", "default_rootless_network_cmd", str),
    ("network", "pasta_options", list),
    ("engine", "network_cmd_path", str),
    ("engine", "network_cmd_options", list),
    ("containers", "base_hosts_file", str),
    ("containers", "host_containers_internal_ip", str),
    ("containers", "dns_servers", list),
    ("containers", "dns_searches", list),
    ("containers", "dns_options", list),
    ("containers", "no_hosts", bool),
)


def config_files() -> list[str]:
    """The containers.conf files in the order they are read; later ones win."""
    override = os.environ.get("CONTAINERS_CONF")
    if override:
        return [override]
    home = os.environ.get("HOME", "")
    user = os.environ.get("XDG_CONFIG_HOME") or (home + "/.config" if home else "")
    files = ["/usr/share/containers/containers.conf"]
    for base in ("/etc/containers", user + "/containers" if user else ""):
        if base:
            files.append(f"{base}/containers.conf")
            try:
                names = sorted(os.listdir(f"{base}/containers.conf.d"))
            except OSError:
                continue
            files += [f"{base}/containers.conf.d/{name}" for name in names if name.endswith(".conf")]
    return files


def _stamp(path: str) -> list[object]:
    try:
        status = os.stat(path)
    except OSError:
        return [path]
    return [path, status.st_mtime_ns, status.st_size]


def parse(files: list[str]) -> dict[str, Any]:
    """The keys of _KEYS from *files*, with ``table.key`` names. Raises RlError naming a file that is not TOML."""
    found: dict[str, Any] = {}
    for path in files:
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError:
            continue
        if not data.strip():
            continue
        document = _toml(path, data.decode(errors="replace"))
        for table, key, kind in _KEYS:
            section = document.get(table)
            if isinstance(section, dict) and key in section:
                value = section[key]
                if not isinstance(value, kind):
                    raise RlError(f"{path}: {key} in [{table}] must be a {kind.__name__}", "see containers.conf(5)")
                found[f"{table}.{key}"] = value
    return found


def _toml(path: str, text: str) -> dict[str, Any]:
    # Most distributions ship the file with every line but the headings commented out: no need for a parser then.
    lines = [line.strip() for line in text.splitlines()]
    if all(not line or line[0] == "#" or (line[0] == "[" and line[-1] == "]") for line in lines):
        return {}
    import sys

    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return dict(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise RlError(f"read {path}: {error}", "correct the file; see containers.conf(5)") from None


def remembered(run: str) -> Memory:
    """What is known for this boot, from *run* (Paths.run); facts that changed since are asked again."""
    global _last
    path = f"{run}/network.json"
    if _last is None or _last.path != path:
        _last = Memory(path)
    return _last


_last: Memory | None = None


def last() -> Memory | None:
    """The memory this process read before, so that two modules do not read it twice."""
    return _last


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
        """What :func:`parse` finds in today's files."""
        files = config_files()
        stamp = [_stamp(path) for path in files]
        known = self._facts.get("config")
        if known and known[0] == stamp:
            return dict(known[1])
        return dict(self._learn("config", stamp, parse(files)))

    def program(self, executable: str) -> frozenset[str]:
        """The long options that ``executable --help`` names."""
        stamp = [_stamp(executable)]
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
