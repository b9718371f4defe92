"""The mount option ``idmap[=uids=FS-HOST-SIZE[#…];gids=…]`` of podman-run(1), as data."""

from __future__ import annotations

from rl.errors import UsageError
from rl.kernel import proc

_HINT = "write idmap=uids=0-1000-1#1-1001-10;gids=0-100-10: first id of the file system, the id it becomes, how many"


def parse(text: str, flag: str) -> dict[str, list[list[int]]]:
    """``uids`` and ``gids``: lists of [id of the file system, id it becomes, how many, relative]; {}: the container's.

    *relative* is 1 where an ``@`` says that the second number is an id of the container. Raises UsageError.
    """
    found: dict[str, list[list[int]]] = {}
    for part in filter(None, text.split(";")):
        name, equals, ranges = part.partition("=")
        if name not in ("uids", "gids") or not equals or name in found:
            raise UsageError(f"{flag}: idmap={text!r} is not a mapping", _HINT)
        found[name] = [_range(item, text, flag) for item in ranges.split("#")]
    if found and len(found) < 2:
        raise UsageError(f"{flag}: idmap={text!r} maps only {next(iter(found))}", "give both uids and gids")
    return found


def _range(item: str, text: str, flag: str) -> list[int]:
    relative = item.startswith("@")
    numbers = item[relative:].split("-")
    if len(numbers) != 3 or not all(number.isascii() and number.isdigit() for number in numbers):
        raise UsageError(f"{flag}: idmap={text!r}: {item!r} is not a range", _HINT)
    values = [int(number) for number in numbers]
    if values[2] < 1 or max(values) > 0xFFFFFFFF:
        raise UsageError(f"{flag}: idmap={text!r}: {item!r} is out of range", _HINT)
    return [*values, int(relative)]


def mappings(ranges: list[list[int]], container: list[tuple[int, int, int]]) -> list[dict[str, int]]:
    """uidMappings or gidMappings of the OCI mount; *container* is the map of the container's user namespace."""
    return [
        {"containerID": first, "hostID": proc.outside(container, target, target) if relative else target, "size": count}
        for first, target, count, relative in ranges
    ]
