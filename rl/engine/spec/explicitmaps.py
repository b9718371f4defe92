"""--uidmap, --gidmap, --subuidname, --subgidname: id maps that are given in full (podman-run(1)).

As everywhere, the outer ids are those of the shared namespace: 0 is the caller, 1… the subordinate ids; ``@ID`` means
an id of the host. ``+`` adds to the usual map instead of replacing it.
"""

from __future__ import annotations

from rl.engine.spec import idmaps
from rl.engine.spec.values import integer
from rl.errors import UnsupportedError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from rl.config.model import IdRange
    from rl.runtime.userns import IdMaps

FLAGS = ("uidmap", "gidmap", "subuidname", "subgidname")
_HINT = "write CONTAINER:FROM[:SIZE], such as 0:1:1000; @FROM is an id of the host, +CONTAINER adds to the usual map"


def asked_for(options: Mapping[str, Any]) -> list[str]:
    """Those of FLAGS that were given, as flags."""
    return [f"--{flag}" for flag in FLAGS if options.get(flag)]


def maps(options: Mapping[str, Any], host: IdMaps) -> tuple[list[IdRange], list[IdRange]]:
    """The uid map and the gid map. *host*: what this user's ids are. Raises UsageError, UnsupportedError."""
    for given, name in (("uidmap", "subuidname"), ("gidmap", "subgidname")):
        if options.get(given) and options.get(name):
            raise UsageError(f"--{given} and --{name} contradict each other", "use one of them")
    uid_name = options.get("subuidname") or options.get("subgidname", "")
    gid_name = options.get("subgidname") or uid_name
    if uid_name:
        uids, gids = _named("/etc/subuid", uid_name), _named("/etc/subgid", gid_name)
    else:
        uids = options.get("uidmap") or options.get("gidmap", [])
        gids = options.get("gidmap") or uids
    return build(uids, host.uid, "u", "--uidmap"), build(gids, host.gid, "g", "--gidmap")


def _named(path: str, name: str) -> list[str]:
    from rl.runtime.userns import subordinate_ranges

    ranges = subordinate_ranges(path, -1, name)
    if not ranges:
        raise UsageError(f"{path} has no range for {name!r}", f"see {path}")
    found, inside = [], 0
    for first, count in ranges:
        found.append(f"{inside}:@{first}:{count}")
        inside += count
    return found


def build(texts: list[str], host: list[IdRange], kind: str, flag: str) -> list[IdRange]:
    """The map of *texts* for *kind* (``u`` or ``g``). Raises UsageError, UnsupportedError."""
    total = sum(count for _, _, count in host)
    entries, add = entries_of(texts, host, kind, flag)
    found = overlay([(0, 0, total)] if add or not entries else [], entries)
    if found[0][0] != 0:
        raise UnsupportedError(
            f"{flag}: id 0 of the container is not mapped, and a container is set up by its root", f"add {flag} 0:FROM"
        )
    return idmaps.within(found, host)


def entries_of(texts: list[str], host: list[IdRange], kind: str, flag: str) -> tuple[list[IdRange], bool]:
    """The ranges of *texts*, and whether one adds to the usual map. Raises UsageError, UnsupportedError."""
    total = sum(count for _, _, count in host)
    entries: list[IdRange] = []
    add = False
    for text in texts:
        only, extends, entry = _parse(text, host, flag)
        if only and kind not in only:
            continue
        add = add or extends
        if entry[1] + entry[2] > total:
            hint = "extend the user's range in /etc/subuid and /etc/subgid"
            raise UnsupportedError(f"{flag} {text}: there are {total} ids from 0 on here", hint)
        entries.append(entry)
    _check_apart(entries, flag)
    return entries, add


def forced(automatic: list[IdRange], text: str, host: list[IdRange]) -> list[IdRange]:
    """*automatic* with the one mapping *text* in it, for auto's uidmapping= and gidmapping=."""
    entries, _ = entries_of([text], host, "", "--userns=auto")
    return overlay(automatic, entries)


def _parse(text: str, host: list[IdRange], flag: str) -> tuple[str, bool, IdRange]:
    """(kinds it is for, whether it adds to the usual map, the range) of one mapping."""
    body = text.lstrip("+ug")
    flags = text[: len(text) - len(body)]
    fields = body.split(":")
    if not 2 <= len(fields) <= 3:
        raise UsageError(f"{flag} {text!r} is not a mapping", _HINT)
    inside = integer(fields[0], flag, 0)
    count = integer(fields[2], flag, 1) if len(fields) == 3 else 1
    if fields[1].startswith("@"):
        outside = _shared(integer(fields[1][1:], flag, 0), count, host, f"{flag} {text}")
    else:
        outside = integer(fields[1], flag, 0)
    return flags.replace("+", ""), "+" in flags, (inside, outside, count)


def _shared(host_id: int, count: int, host: list[IdRange], what: str) -> int:
    """The shared id of the host's *host_id*, with *count* ids in one piece."""
    for inside, first, length in host:
        if first <= host_id and host_id + count <= first + length:
            return inside + host_id - first
    hint = "see /etc/subuid and /etc/subgid"
    raise UnsupportedError(f"{what}: the host's ids {host_id} to {host_id + count - 1} are not this user's", hint)


def _check_apart(entries: list[IdRange], flag: str) -> None:
    for side in (0, 1):
        ordered = sorted((entry[side], entry[2]) for entry in entries)
        end = 0
        for first, count in ordered:
            if first < end:
                raise UsageError(f"{flag}: two mappings overlap at id {first}", "each id can be mapped once")
            end = first + count


def overlay(base: list[IdRange], entries: list[IdRange]) -> list[IdRange]:
    """*base* without the ids that *entries* have on either side, and these."""
    for inside, outside, count in entries:
        base = [piece for line in base for piece in _without(line, 0, inside, count)]
        base = [piece for line in base for piece in _without(line, 1, outside, count)]
    return sorted(base + entries)


def _without(line: IdRange, side: int, first: int, count: int) -> list[IdRange]:
    start, length = line[side], line[2]
    low, high = max(start, first), min(start + length, first + count)
    if low >= high:
        return [line]
    before, after = low - start, start + length - high
    pieces: list[IdRange] = [(line[0], line[1], before)] if before else []
    if after:
        skipped = length - after
        pieces.append((line[0] + skipped, line[1] + skipped, after))
    return pieces
