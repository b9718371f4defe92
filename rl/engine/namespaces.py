"""Which namespaces a container has, with whom it shares them, and its host name: what `create` decides of them."""

from __future__ import annotations

import os

from rl.engine import containers
from rl.engine.spec import idmaps
from rl.errors import NotFoundError, RlError, UsageError
from rl.runtime import userns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.config.model import ContainerConfig
    from rl.engine.context import Engine

_NAMESPACE_FLAGS = (
    ("pid", "pid_mode", ("private", "host")),
    ("ipc", "ipc_mode", ("private", "host", "shareable", "none")),
    ("uts", "uts_mode", ("private", "host")),
    ("cgroupns", "cgroupns_mode", ("private", "host")),
)


def fill(engine: Engine, config: ContainerConfig, options: dict[str, Any]) -> None:
    """Decide --userns, --pid, --ipc, --uts, --cgroupns, --hostname.

    Raises UsageError, NotFoundError, UnsupportedError.
    """
    for flag, key, modes in _NAMESPACE_FLAGS:
        mode = options.get(flag, "") or "private"
        kind, _, rest = mode.partition(":")
        if kind == "container":
            mode = f"container:{containers.find(engine.paths, rest)}"
        elif kind == "ns":
            if not os.path.exists(rest):
                raise NotFoundError(f"--{flag}={mode}: {rest}: no such file or directory")
        elif mode not in modes:
            raise UsageError(f"--{flag}: {mode!r} is not a mode", f"use {', '.join(modes)}, container:NAME or ns:PATH")
        config[key] = mode  # type: ignore[literal-required]
    text = options.get("userns", os.environ.get("PODMAN_USERNS", ""))
    config["userns"] = text
    config["uid_map"] = config["gid_map"] = []
    config["id_key"] = ""
    if any(options.get(flag) for flag in ("uidmap", "gidmap", "subuidname", "subgidname")):
        _explicit_maps(config, options)
    elif text.startswith("container:"):
        other = containers.find(engine.paths, text.partition(":")[2])
        theirs = containers.read_config(engine.paths, other)
        config["userns"] = f"container:{other}"
        config["uid_map"], config["gid_map"] = theirs["uid_map"], theirs["gid_map"]
        config["id_key"] = theirs["id_key"]
    elif text not in ("", "host"):
        maps = userns.wanted_maps()
        limits_ = (sum(r[2] for r in maps.uid) - 1, sum(r[2] for r in maps.gid) - 1)
        wanted = idmaps.parse(text, (os.getuid(), os.getgid()), limits_, _taken_ranges(engine, text))
        config["uid_map"] = idmaps.within(wanted.uid_map, maps.uid)
        config["gid_map"] = idmaps.within(wanted.gid_map, maps.gid)
        config["id_key"] = wanted.id_key
        if wanted.user and "user" not in options:
            config["user"] = wanted.user
    config["hostname"] = _hostname(engine, config, options)


def _explicit_maps(config: ContainerConfig, options: dict[str, Any]) -> None:
    """--uidmap and its like."""
    from rl.engine.spec import explicitmaps
    from rl.storage import idmap

    if options.get("userns"):
        flag = explicitmaps.asked_for(options)[0]
        raise UsageError(f"--userns and {flag} contradict each other", "use one of them")
    config["userns"] = "private"
    config["uid_map"], config["gid_map"] = explicitmaps.maps(options, userns.wanted_maps())
    config["id_key"] = idmap.key_for(config["uid_map"], config["gid_map"])


def _taken_ranges(engine: Engine, text: str) -> list[tuple[int, int]]:
    """Shared ids in use by other containers with --userns=auto."""
    taken = []
    if text.startswith("auto"):
        for other in containers.ids(engine.paths):
            try:
                config = containers.read_config(engine.paths, other)
            except RlError:
                continue
            if config.get("userns", "").startswith("auto"):
                taken += [(first, count) for _, first, count in config.get("uid_map", [])]
    return taken


def _hostname(engine: Engine, config: ContainerConfig, options: dict[str, Any]) -> str:
    given: str = options.get("hostname", "")
    if given:
        if len(given.encode(errors="surrogateescape")) > 64:  # sethostname(2), __NEW_UTS_LEN
            raise UsageError("--hostname is longer than 64 bytes")
        if config["uts_mode"] != "private":
            raise UsageError(f"--hostname cannot be set with --uts={config['uts_mode']}")
        return given
    if config["uts_mode"] == "host" or _network_mode(options) == "host":
        return os.uname().nodename
    return config["id"][:12]


def _network_mode(options: dict[str, Any]) -> str:
    given = options.get("network") or []
    return (given[0] if isinstance(given, list) else given) if given else ""
