"""--userns: the id maps of a container that has a user namespace of its own.

All maps are in ids of the shared namespace: there 0 is the caller and 1…N are the subordinate ids.
The layers need other owners on disk for them: see rl.storage.idmap. Source: podman-run(1), --userns.
"""

from __future__ import annotations

from rl.engine.spec.values import integer
from rl.errors import UnsupportedError, UsageError
from rl.storage import idmap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.model import IdRange

_AUTO_SIZE = 1024


class UserNamespace:
    """What --userns asks for: maps (empty: the shared namespace) and, for keep-id, the user to run as."""

    __slots__ = ("gid_map", "id_key", "uid_map", "user")

    def __init__(self, uid_map: list[IdRange], gid_map: list[IdRange], user: str = "") -> None:
        self.uid_map = uid_map
        self.gid_map = gid_map
        self.id_key = idmap.key_for(uid_map, gid_map)  # which trees of the layers have these owners
        self.user = user


def parse(
    text: str, ids: tuple[int, int], limits: tuple[int, int], taken: list[tuple[int, int]]
) -> UserNamespace:
    """The namespace for ``--userns TEXT``.

    *ids* are the caller's uid and gid, *limits* how many subordinate uids and gids there are, *taken*
    the (first, count) ranges of running ``auto`` containers.
    """
    mode, _, rest = text.partition(":")
    settings = {}
    for item in filter(None, rest.split(",")):
        key, _, value = item.partition("=")
        settings[key] = value
    if mode == "ns":
        raise UnsupportedError(
            f"--userns={text}: which ids a namespace of others has cannot be known", "use container:NAME, or --uidmap"
        )
    if mode in ("", "host"):
        _refuse_unknown(mode, settings, ())
        return UserNamespace([], [])
    if mode not in ("keep-id", "nomap", "auto"):
        raise UsageError(
            f"--userns: {text!r} is not a mode",
            "use host, keep-id, keep-id:uid=UID,gid=GID, nomap, auto[:size=N] or container:NAME",
        )
    if min(limits) < 1:
        raise UnsupportedError(
            f"--userns={mode} needs subordinate ids, and this user has none",
            "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER; see `rl info`",
        )
    if mode == "keep-id":
        _refuse_unknown(mode, settings, ("uid", "gid", "size"))
        uid = integer(settings.get("uid", ids[0]), "--userns keep-id:uid", 0)
        gid = integer(settings.get("gid", ids[1]), "--userns keep-id:gid", 0)
        sizes = _keep_id_sizes(settings.get("size"), limits)
        return UserNamespace(idmap.keep_id_map(uid, sizes[0]), idmap.keep_id_map(gid, sizes[1]), f"{uid}:{gid}")
    if mode == "nomap":
        _refuse_unknown(mode, settings, ())
        return UserNamespace(idmap.shift_map(1, limits[0]), idmap.shift_map(1, limits[1]))
    _refuse_unknown(mode, settings, ("size", "uidmapping", "gidmapping"))
    count = integer(settings.get("size", _AUTO_SIZE), "--userns auto:size", 1)
    first = _free_range(count, min(limits), taken)
    return UserNamespace(
        _forced(idmap.shift_map(first, count), settings.get("uidmapping", ""), limits[0]),
        _forced(idmap.shift_map(first, count), settings.get("gidmapping", ""), limits[1]),
    )


def within(ranges: list[IdRange], host: list[IdRange]) -> list[IdRange]:
    """*ranges* in pieces, each inside of one range of *host*: the kernel takes no others (user_namespaces(7))."""
    pieces: list[IdRange] = []
    for inside, outside, count in ranges:
        for first, _, length in host:
            low, high = max(first, outside), min(first + length, outside + count)
            if low < high:
                pieces.append((inside + low - outside, low, high - low))
    return pieces


def _forced(automatic: list[IdRange], text: str, limit: int) -> list[IdRange]:
    """*automatic* with the mapping of auto's uidmapping= or gidmapping= in it."""
    if not text:
        return automatic
    from rl.engine.spec import explicitmaps

    return explicitmaps.forced(automatic, text, [(0, 0, 1), (1, 1, limit)])


def _keep_id_sizes(size: str | None, limits: tuple[int, int]) -> tuple[int, int]:
    """How many of the shared uids and gids a keep-id map takes: all, or *size* ids beside the user's own."""
    if size is None:
        return limits[0] + 1, limits[1] + 1
    count = integer(size, "--userns keep-id:size", 1)
    if count > min(limits):
        raise UnsupportedError(
            f"--userns=keep-id:size={count}: this user has {min(limits)} subordinate ids",
            "ask for fewer, or extend /etc/subuid and /etc/subgid",
        )
    return count + 1, count + 1


def _refuse_unknown(mode: str, settings: dict[str, str], known: tuple[str, ...]) -> None:
    for key in settings:
        if key not in known:
            hint = f"{mode} knows: {', '.join(known) or 'no options'}"
            raise UsageError(f"--userns={mode}: unknown option {key!r}", hint)


def _free_range(count: int, limit: int, taken: list[tuple[int, int]]) -> int:
    """The lowest first shared id (1 or more) with *count* free ones after it."""
    first = 1
    for start, length in sorted(taken):
        if first + count <= start:
            break
        first = max(first, start + length)
    if first + count - 1 > limit:
        raise UnsupportedError(
            f"--userns=auto: no {count} free subordinate ids are left of {limit}",
            "remove a container that has --userns=auto, ask for fewer with auto:size=N, or extend /etc/subuid and "
            "/etc/subgid",
        )
    return first
