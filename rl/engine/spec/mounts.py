"""-v, --mount, --tmpfs: what is mounted into the container (podman-run(1))."""

from __future__ import annotations

import os

from rl.engine.spec.values import boolean, comma_list, is_name
from rl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from rl.config.model import MountSpec

_PROPAGATION = ("shared", "slave", "private", "rshared", "rslave", "rprivate", "unbindable", "runbindable")
_VOLUME_OPTIONS = frozenset(
    ("ro", "rw", "z", "Z", "U", "nocopy", "copy", "exec", "noexec", "dev", "nodev", "suid", "nosuid", "bind", "rbind",
     "rro", *_PROPAGATION)
)
_TMPFS_FLAGS = frozenset(
    ("ro", "rw", "exec", "noexec", "dev", "nodev", "suid", "nosuid", "atime", "noatime", "relatime", "strictatime",
     "nodiratime", "sync", "async", "tmpcopyup", "notmpcopyup", "U", *_PROPAGATION)
)
_TMPFS_VALUES = ("size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol", "huge")


def mounts(options: Mapping[str, Any], image_volumes: list[str]) -> list[MountSpec]:
    """All requested mounts, image volumes last; two on one destination are an error as in Podman."""
    found: list[MountSpec] = []
    for flag, parse in (("volume", parse_volume), ("mount", parse_mount), ("tmpfs", parse_tmpfs)):
        found += [parse(text) for text in options.get(flag, [])]
    seen: set[str] = set()
    for spec in found:
        if spec["destination"] in seen:
            raise UsageError(f"{spec['destination']}: duplicate mount destination", "mount each directory once")
        seen.add(spec["destination"])
    mode = options.get("image_volume", "anonymous")
    for path in image_volumes:
        destination = _destination(path, "VOLUME of the image")
        if destination in seen or mode == "ignore":
            continue
        seen.add(destination)
        if mode == "tmpfs":
            tmpfs = [*_TMPFS_DEFAULTS]
            found.append({"type": "tmpfs", "source": "tmpfs", "destination": destination, "options": tmpfs})
        else:
            found.append({"type": "volume", "source": "", "destination": destination, "options": [], "anonymous": True})
    return found


def parse_volume(text: str) -> MountSpec:
    """``[SOURCE:]DESTINATION[:OPTIONS]``; a source that begins with / or . is a host path, else a volume's name."""
    parts = text.split(":")
    if len(parts) > 3 or not all(parts[:2]):
        raise UsageError(f"-v {text!r} is not a volume", "write -v [SOURCE:]DESTINATION[:OPTIONS]")
    if len(parts) == 1:
        destination = _destination(parts[0], "-v")
        return {"type": "volume", "source": "", "destination": destination, "options": [], "anonymous": True}
    source, destination = parts[0], _destination(parts[1], "-v")
    flags = [flag for flag in (parts[2].split(",") if len(parts) == 3 else []) if flag]
    for flag in flags:
        if flag not in _VOLUME_OPTIONS:
            raise UsageError(f"-v {text!r}: unknown option {flag!r}", f"known: {', '.join(sorted(_VOLUME_OPTIONS))}")
    if source.startswith(("/", ".")):
        return _bind(source, destination, flags, f"-v {text}")
    return _volume(source, destination, flags, f"-v {text}")


def _clean(flags: list[str]) -> list[str]:
    """Without labels (no relabelling where SELinux is not) and copy switches, which are not mount options."""
    return [flag for flag in flags if flag not in ("z", "Z", "copy", "nocopy", "rbind", "rw")]


def _bind(source: str, destination: str, flags: list[str], flag: str) -> MountSpec:
    path = os.path.abspath(source)
    if not os.path.lexists(path):
        raise UsageError(f"{flag}: no such file or directory: {path}", f"create it first: mkdir -p {path}")
    recursive = "bind" if "bind" in flags else "rbind"
    options = [recursive, *(option for option in _clean(flags) if option != "bind")]
    return {"type": "bind", "source": path, "destination": destination, "options": options}


def _volume(name: str, destination: str, flags: list[str], flag: str) -> MountSpec:
    if not is_name(name):
        raise UsageError(
            f"{flag}: {name!r} is not a volume's name",
            "use letters, digits, '_', '.' and '-'; the path of a directory begins with / or ./",
        )
    return {
        "type": "volume", "source": name, "destination": destination, "options": _clean(flags),
        "no_copy": "nocopy" in flags,
    }


def parse_mount(text: str) -> MountSpec:
    """``type=bind|volume|tmpfs,source=…,destination=…[,option…]`` as podman-run(1) --mount."""
    fields: dict[str, str] = {}
    for item in comma_list(text):
        key, _, value = item.partition("=")
        fields[_ALIASES.get(key.strip().lower(), key.strip().lower())] = value
    kind = fields.pop("type", "volume")
    if kind not in ("bind", "volume", "tmpfs"):
        hint = "use type=bind, type=volume or type=tmpfs"
        raise UsageError(f"--mount {text!r}: type {kind!r} is not available", hint)
    if not fields.get("destination"):
        raise UsageError(f"--mount {text!r} has no destination", "add destination=/path/in/container")
    destination = _destination(fields.pop("destination"), "--mount")
    source = fields.pop("source", "")
    if kind == "tmpfs":
        if source:
            raise UsageError(f"--mount {text!r}: a tmpfs has no source")
        return {"type": "tmpfs", "source": "tmpfs", "destination": destination, "options": _tmpfs_fields(fields, text)}
    flags = _mount_flags(fields, text)
    if kind == "bind":
        if not source:
            raise UsageError(f"--mount {text!r}: a bind mount needs source=/path/on/host")
        return _bind(source, destination, flags, f"--mount {text}")
    if not source:
        return {"type": "volume", "source": "", "destination": destination, "options": _clean(flags), "anonymous": True}
    return _volume(source, destination, flags, f"--mount {text}")


_ALIASES = {"src": "source", "target": "destination", "dst": "destination", "ro": "readonly", "tmpfs-size": "size",
            "tmpfs-mode": "mode"}


def _mount_flags(fields: dict[str, str], text: str) -> list[str]:
    flags = []
    for key, value in fields.items():
        if key == "readonly":
            flags += ["ro"] if boolean(value, "--mount readonly") else []
        elif key == "rw":
            flags += [] if boolean(value, "--mount rw") else ["ro"]
        elif key == "bind-propagation" and value in _PROPAGATION:
            flags.append(value)
        elif key == "bind-nonrecursive":
            flags += ["bind"] if boolean(value, "--mount bind-nonrecursive") else []
        elif key in ("u", "chown"):
            flags += ["U"] if boolean(value, "--mount U") else []
        elif key == "relabel" and value in ("shared", "private"):
            flags.append("z")
        elif key == "volume-nocopy":
            flags += ["nocopy"] if boolean(value, "--mount volume-nocopy") else []
        elif key in _VOLUME_OPTIONS and not value:
            flags.append(key)
        else:
            raise UsageError(f"--mount {text!r}: unknown option {key!r}" + (f" with value {value!r}" if value else ""))
    return flags


def _tmpfs_fields(fields: dict[str, str], text: str) -> list[str]:
    options = []
    for key, value in fields.items():
        if key == "readonly":
            options += ["ro"] if boolean(value, "--mount readonly") else []
        elif key == "size" and value:
            options.append(f"size={value}")
        elif key == "mode" and value:
            options.append(f"mode={value}")
        elif (key == "chown" or key == "u") and boolean(value, "--mount U"):
            options.append("U")
        elif key in _TMPFS_FLAGS and not value:
            options.append(key)
        else:
            raise UsageError(f"--mount {text!r}: unknown tmpfs option {key!r}")
    return _tmpfs_options(options)


_TMPFS_DEFAULTS = ("nosuid", "nodev", "rprivate", "tmpcopyup")


def parse_tmpfs(text: str) -> MountSpec:
    """``DESTINATION[:OPTIONS]`` of --tmpfs."""
    path, _, rest = text.partition(":")
    options = []
    for option in filter(None, rest.split(",")):
        key, equals, _ = option.partition("=")
        if (equals and key not in _TMPFS_VALUES) or (not equals and key not in _TMPFS_FLAGS):
            hint = "use size=, mode=, ro, noexec, nosuid, nodev …"
            raise UsageError(f"--tmpfs {text!r}: unknown option {option!r}", hint)
        options.append(option)
    return {
        "type": "tmpfs", "source": "tmpfs", "destination": _destination(path, "--tmpfs"),
        "options": _tmpfs_options(options),
    }


def _tmpfs_options(asked: list[str]) -> list[str]:
    options = [*_TMPFS_DEFAULTS, *asked]
    return [o for o in options if o not in ("tmpcopyup", "notmpcopyup")] if "notmpcopyup" in asked else options


def _destination(path: str, flag: str) -> str:
    if not path.startswith("/"):
        raise UsageError(f"{flag}: the destination {path!r} must be an absolute path in the container")
    normal = os.path.normpath(path)
    normal = "/" + normal.lstrip("/")
    if normal == "/":
        raise UsageError(f"{flag}: the destination must not be /", "to change the root file system, use --rootfs")
    return normal
