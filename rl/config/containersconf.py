"""What the containers.conf files say, of the keys that rl reads; parsed once for as long as they do not change.

Parsing TOML costs 10 ms, so the result is kept in the runtime directory with the modification times and sizes of the
files it comes from. A command pays a few stat(2), and one that asks twice nothing.

Source: containers.conf(5). Called by whoever needs a default of a flag: create, logs, events, cgroups, network.
"""

from __future__ import annotations

import os

from rl.config.jsonio import read_json, write_json
from rl.errors import RlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_VERSION = 3

#: (table, key, type or the words allowed): all that is read of containers.conf.
_KEYS: tuple[tuple[str, str, Any], ...] = (
    ("network", "default_rootless_network_cmd", str),
    ("network", "pasta_options", list),
    ("engine", "network_cmd_path", str),
    ("engine", "network_cmd_options", list),
    ("engine", "cdi_spec_dirs", list),
    ("engine", "cgroup_manager", ("systemd", "cgroupfs")),
    ("engine", "detach_keys", str),
    ("engine", "events_logger", ("file", "journald", "none")),
    ("engine", "events_logfile_path", str),
    ("engine", "events_logfile_max_size", (str, int)),
    ("containers", "base_hosts_file", str),
    ("containers", "host_containers_internal_ip", str),
    ("containers", "dns_servers", list),
    ("containers", "dns_searches", list),
    ("containers", "dns_options", list),
    ("containers", "no_hosts", bool),
    ("containers", "cgroups", ("enabled", "disabled", "no-conmon", "split")),
    ("containers", "log_driver", str),
    ("containers", "log_size_max", int),
    ("containers", "log_tag", str),
)

#: What this process read last: (where it is kept, what it depends on, the keys).
_last: tuple[str, list[object], dict[str, Any]] | None = None


def load(run: str) -> dict[str, Any]:
    """The keys that are set, as ``table.key``; *run* (Paths.run) is where the parsed form is kept for this boot.

    Raises RlError naming a file that is wrong.
    """
    global _last
    files = config_files()
    stamp: list[object] = [found for found in map(file_stamp, files) if len(found) > 1]
    if _last is None or _last[:2] != (run, stamp):
        _last = (run, stamp, _known(f"{run}/containers-conf.json", stamp, files) if stamp else {})
    return _last[2]


def last() -> dict[str, Any] | None:
    """What :func:`load` found last in this process, None before."""
    return _last[2] if _last else None


def _known(path: str, stamp: list[object], files: list[str]) -> dict[str, Any]:
    """The parsed form kept in *path*; parsed now if the files are not those it was made of."""
    try:
        record = read_json(path)
        if record["version"] == _VERSION and record["stamp"] == stamp:
            return dict(record["values"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    values = parse(files)
    try:
        write_json(path, {"version": _VERSION, "stamp": stamp, "values": values}, sync=False)
    except OSError:
        pass  # a full disk only costs the next command some time
    return values


def config_files() -> list[str]:
    """The containers.conf files in the order they are read; later ones win."""
    last = os.environ.get("CONTAINERS_CONF_OVERRIDE", "")
    only = os.environ.get("CONTAINERS_CONF", "")
    if only:
        return [only, last] if last else [only]
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
    return [*files, last] if last else files


def file_stamp(path: str) -> list[object]:
    """What changes when *path* does; the path alone where there is no such file."""
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
                found[f"{table}.{key}"] = _checked(path, table, key, kind, section[key])
    return found


def _checked(path: str, table: str, key: str, kind: Any, value: Any) -> Any:
    words = kind if isinstance(kind, tuple) and isinstance(kind[0], str) else ()
    if words:
        if value not in words:
            raise RlError(f"{path}: {key} in [{table}]: {value!r} is not known", f"use one of: {', '.join(words)}")
    elif not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        name = " or ".join(k.__name__ for k in kind) if isinstance(kind, tuple) else kind.__name__
        raise RlError(f"{path}: {key} in [{table}] must be a {name}", "see containers.conf(5)")
    return value


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
