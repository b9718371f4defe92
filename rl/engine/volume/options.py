"""``--opt`` of the local driver: type, device, o, copy, nocopy (podman-volume-create(1)).

Podman keeps the words as they were given, and adds what ``o`` says of owner and size as keys of their own.
"""

from __future__ import annotations

from rl.engine.spec.values import integer, size
from rl.errors import UnsupportedError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.model import VolumeRecord

_KEYS = ("type", "device", "o", "copy", "nocopy")
_KNOWN = "type=, device=, o=, copy and nocopy"
#: What the owner of a user namespace may mount.
_TYPES = ("", "none", "bind", "tmpfs", "overlay")


class Local:
    """The options, read. ``type`` is "", bind, tmpfs or overlay; "" is a plain directory."""

    __slots__ = ("copy", "device", "flags", "gid", "inodes", "size", "type", "uid")

    def __init__(self) -> None:
        self.type = ""
        self.device = ""
        self.flags: list[str] = []  # what is left of ``o``: for mount(2)
        self.uid = -1
        self.gid = -1
        self.size = 0  # bytes, 0: no limit
        self.inodes = 0
        self.copy = True


def parse(options: dict[str, str]) -> Local:
    """Raises UsageError, UnsupportedError for what cannot be honoured."""
    found = Local()
    for key, value in options.items():
        if key.isupper():
            continue  # made of ``o``, in a record
        if key.lower() not in _KEYS:
            raise UsageError(f"invalid mount option {key} for driver 'local': invalid argument", f"known are {_KNOWN}")
        if key.lower() in ("copy", "nocopy"):
            found.copy = key.lower() == "copy"
        elif key.lower() == "device":
            found.device = value
        elif key.lower() == "type":
            found.type = value
        else:
            _read_o(found, value)
    if "copy" in options and "nocopy" in options:
        raise UsageError("volume options copy and nocopy exclude each other", "leave one of them out")
    _check(found)
    return found


def _read_o(found: Local, text: str) -> None:
    quota = True
    for word in filter(None, text.split(",")):
        key, equals, value = word.partition("=")
        if key in ("uid", "gid") and equals:
            setattr(found, key, integer(value, f"volume option {key}", 0, (1 << 32) - 2))
        elif key == "size" and equals:
            found.size = size(value, "volume option size")
        elif key == "inodes" and equals:
            found.inodes = integer(value, "volume option inodes", 0)
        elif key == "noquota":
            quota = False
        elif key == "timeout":
            raise UnsupportedError(
                "volume option timeout is for volume plugins: rl has none, and nothing here to wait for", "leave it out"
            )
        else:
            found.flags.append(word)
    if not quota and (found.size or found.inodes):
        raise UsageError("volume option noquota contradicts size and inodes", "leave one of them out")


def _check(found: Local) -> None:
    if found.type not in _TYPES:
        raise UnsupportedError(
            f"volume options: a file system of type {found.type} needs root's privileges on the host to be mounted",
            "have it mounted there, and use that directory: -o type=none -o device=/path -o o=bind",
        )
    bind = "bind" in found.flags or "rbind" in found.flags
    if found.type in ("none", "bind") or (not found.type and bind):
        found.type = "bind"
        if not found.device.startswith("/"):
            raise UsageError(
                f"volume options: device={found.device} is no absolute path" if found.device
                else "volume options: a bind mount needs the directory it shows", "add -o device=/path/on/host",
            )
        if found.size or found.inodes:
            what = "volume options: size and inodes cannot limit a directory of the host"
            raise UnsupportedError(what, "leave them out")
    elif not found.type and (found.device or found.flags):
        what = f"device={found.device}" if found.device else f"o={','.join(found.flags)}"
        raise UsageError(
            f"volume options: {what} without type=: nothing says what is to be mounted",
            "add -o type=tmpfs, or -o type=none -o o=bind for a directory of the host",
        )
    if found.type == "overlay" and not any(word.startswith("lowerdir=") for word in found.flags):
        raise UsageError("volume options: type=overlay needs o=lowerdir=…", "see mount(8), overlay")


def needs_mount(record: VolumeRecord) -> bool:
    """Whether the volume is a file system to be mounted, not just its directory. On the path of `rl run`."""
    options = record.get("Options")
    return bool(options) and bool(parse(options).type)  # type: ignore[arg-type]


def recorded(options: dict[str, str], found: Local) -> dict[str, str]:
    """The options as Podman's documents show them."""
    result = dict(options)
    for key, value in (("UID", found.uid), ("GID", found.gid)):
        if value >= 0:
            result[key] = str(value)
    if found.size:
        result["SIZE"] = str(found.size)
    if found.inodes:
        result["INODES"] = str(found.inodes)
    return dict(sorted(result.items()))
