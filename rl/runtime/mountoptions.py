"""The mount options of an OCI config, sorted by who honours them: the mount, the file system, or rl itself.

Called by :mod:`rl.runtime.mounts`. Source: OCI runtime specification, config.md "Linux mount options"; mount(8);
mount_setattr(2); fsconfig(2).
"""

from __future__ import annotations

from rl.errors import UnsupportedError
from rl.kernel import mount as m

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ATIME = 0x70  # MOUNT_ATTR__ATIME: the access-time modes exclude each other, so setting one clears the field

#: option: (attributes of the mount to set, to clear)
_ATTRIBUTES = {
    "ro": (m.MOUNT_ATTR_RDONLY, 0), "rw": (0, m.MOUNT_ATTR_RDONLY),
    "nosuid": (m.MOUNT_ATTR_NOSUID, 0), "suid": (0, m.MOUNT_ATTR_NOSUID),
    "nodev": (m.MOUNT_ATTR_NODEV, 0), "dev": (0, m.MOUNT_ATTR_NODEV),
    "noexec": (m.MOUNT_ATTR_NOEXEC, 0), "exec": (0, m.MOUNT_ATTR_NOEXEC),
    "nodiratime": (m.MOUNT_ATTR_NODIRATIME, 0), "diratime": (0, m.MOUNT_ATTR_NODIRATIME),
    "noatime": (m.MOUNT_ATTR_NOATIME, ATIME), "relatime": (0, ATIME), "atime": (0, ATIME),
    "strictatime": (m.MOUNT_ATTR_STRICTATIME, ATIME), "nostrictatime": (0, ATIME),
    # Without relatime the kernel keeps relatime unless another mode is named (Linux 2.6.30).
    "norelatime": (0, 0),
    "nosymfollow": (m.MOUNT_ATTR_NOSYMFOLLOW, 0), "symfollow": (0, m.MOUNT_ATTR_NOSYMFOLLOW),
}
PROPAGATION = {
    "private": m.MS_PRIVATE, "slave": m.MS_SLAVE, "shared": m.MS_SHARED, "unbindable": m.MS_UNBINDABLE,
    "rprivate": m.MS_PRIVATE | m.MS_REC, "rslave": m.MS_SLAVE | m.MS_REC, "rshared": m.MS_SHARED | m.MS_REC,
    "runbindable": m.MS_UNBINDABLE | m.MS_REC,
}
#: Words for the file system itself that fsconfig(2) knows for any: word → what it is about, so that the later wins.
_SUPERBLOCK = {
    "sync": "sync", "async": "sync", "dirsync": "dirsync", "lazytime": "lazytime", "nolazytime": "lazytime",
    "mand": "mand", "nomand": "mand",
}
#: What has no effect here: the default, or about kernel messages only (silent, loud).
_NOTHING = frozenset(("defaults", "noiversion", "silent", "loud", "notmpcopyup"))
#: Switches of rl's own, each an attribute of :class:`Options`.
_SWITCHES = {
    "tmpcopyup": "copy_up", "copy-symlink": "copy_symlink", "src-nofollow": "source_nofollow",
    "dest-nofollow": "target_nofollow", "remount": "remount", "iversion": "iversion",
}


class Options:
    """The options of one mount; ``recursive_*`` come from the ``r…`` forms (rro, rnosuid, …).

    ``id_map`` is "", ``idmap`` or ``ridmap``; ``data`` is what only the file system can understand, ``superblock``
    what every file system does.
    """

    __slots__ = (
        "bind", "clear", "copy_symlink", "copy_up", "data", "id_map", "iversion", "propagation", "recursive",
        "recursive_clear", "recursive_set", "remount", "set", "source_nofollow", "superblock", "target_nofollow",
    )

    def __init__(self, options: list[str]) -> None:
        self.set = self.clear = self.recursive_set = self.recursive_clear = self.propagation = 0
        self.bind = self.recursive = self.copy_up = self.copy_symlink = self.iversion = self.remount = False
        self.source_nofollow = self.target_nofollow = False
        self.id_map = ""
        self.data: list[str] = []
        self.superblock: dict[str, str] = {}
        for option in options:
            self._add(option)
        if self.copy_symlink and (self.source_nofollow or self.target_nofollow):
            raise UnsupportedError(
                "mount option copy-symlink contradicts src-nofollow and dest-nofollow", "leave one of them out"
            )

    def _add(self, option: str) -> None:
        if option in ("bind", "rbind"):
            self.bind = True
            self.recursive = option == "rbind"
        elif option in PROPAGATION:
            self.propagation = PROPAGATION[option]
        elif option in _ATTRIBUTES:
            on, off = _ATTRIBUTES[option]
            self.set, self.clear = self.set & ~(off & ~on) | on, self.clear & ~on | off
        elif option[:1] == "r" and option[1:] in _ATTRIBUTES:
            on, off = _ATTRIBUTES[option[1:]]
            self.recursive_set = self.recursive_set & ~(off & ~on) | on
            self.recursive_clear = self.recursive_clear & ~on | off
        elif option in ("idmap", "ridmap"):
            self.id_map = option
        elif option in _SUPERBLOCK:
            self.superblock[_SUPERBLOCK[option]] = option
        elif option in _SWITCHES:
            setattr(self, _SWITCHES[option], True)
        elif option not in _NOTHING and not option.startswith("x-"):  # x-…: comments to other programs, mount(8)
            self.data += split(option)

    def without_readonly(self) -> bool:
        """Take ``ro`` out; whether it was there."""
        was = (self.set | self.recursive_set) & m.MOUNT_ATTR_RDONLY
        self.set &= ~m.MOUNT_ATTR_RDONLY
        self.recursive_set &= ~m.MOUNT_ATTR_RDONLY
        return bool(was)


def of(entry: dict[str, Any]) -> Options:
    """The options of a mount of config.json; type ``rbind`` says what the option does."""
    options = Options(entry.get("options") or [])
    if entry.get("type") in ("bind", "rbind"):
        options.recursive = options.recursive or entry["type"] == "rbind"
    return options


def split(option: str) -> list[str]:
    """The options of one string: others join them by commas for mount(2), so one string may be several.

    A comma behind a backslash (overlay) or within quotes (SELinux contexts) belongs to a value.
    """
    if "," not in option:
        return [option]
    parts, quoted, start = [], False, 0
    for position, letter in enumerate(option):
        if letter == '"':
            quoted = not quoted
        elif letter == "," and not quoted and option[position - 1 : position] != "\\":
            parts.append(option[start:position])
            start = position + 1
    return [part for part in (*parts, option[start:]) if part]


def known() -> list[str]:
    """The options that mean something here; all others go to the file system (features.md, "Mount Options")."""
    names = {"bind", "rbind", "idmap", "ridmap", *PROPAGATION, *_ATTRIBUTES, *(f"r{name}" for name in _ATTRIBUTES)}
    return sorted(names | {*_SUPERBLOCK, *_NOTHING, *_SWITCHES} - {"remount"})
