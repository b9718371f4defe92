"""``--filter`` and the name arguments of rl images. Imported only where one is given.

Source: podman-images(1), "--filter".
"""

from __future__ import annotations

import time

from rl.engine.images import parse_time, split
from rl.errors import UsageError
from rl.image import store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rl.engine.context import Engine
    from rl.engine.images import Image

    Test = Callable[[Image], bool]


def named(found: list[Image], names: list[str]) -> list[Image]:
    """The images that match any of *names*, each with the names that match; all where there are none."""
    if not names:
        return found
    chosen = []
    for image in found:
        matching = [name for name in image["Names"] if any(matches(name, wanted) for wanted in names)]
        if matching:
            chosen.append({**image, "Names": matching, "RepoTags": [n for n in matching if "@" not in n]})
        elif any(_is_id(image, wanted) for wanted in names):
            chosen.append(image)
    return chosen


def _is_id(image: Image, wanted: str) -> bool:
    digits = wanted.removeprefix("sha256:")
    return len(digits) >= store.SHORTEST_PREFIX and bool(image["Id"].startswith(digits))


def matches(name: str, wanted: str) -> bool:
    """Whether the full *name* is *wanted*: short or full, with or without tag, or with ``*``, ``?``, ``[…]``."""
    repository, _, tag = split(name)
    if "*" in wanted or "?" in wanted or "[" in wanted:
        from fnmatch import fnmatchcase

        has_tag = wanted.rfind(":") > wanted.rfind("/")
        return any(fnmatchcase(part + f":{tag}" if has_tag else part, wanted) for part in _endings(repository))
    if "@" in wanted:
        return wanted == name
    plain, colon, wanted_tag = wanted.rpartition(":") if wanted.rfind(":") > wanted.rfind("/") else (wanted, "", "")
    return plain in _endings(repository) and (not colon or wanted_tag == tag)


def _endings(repository: str) -> list[str]:
    """docker.io/library/nginx, library/nginx, nginx."""
    parts = repository.split("/")
    return ["/".join(parts[i:]) for i in range(len(parts))]


def filtered(engine: Engine, found: list[Image], filters: list[str]) -> list[Image]:
    """The images that pass *filters* (``key=value``, ``key!=value``). Raises UsageError, NoSuchImageError."""
    tests: dict[str, list[Test]] = {}
    for text in filters:
        key, equals, value = text.partition("=")
        negated = key.endswith("!")
        key = key.rstrip("!")
        make = _FILTERS.get(key)
        if not equals or make is None:
            raise UsageError(f'unsupported image filter "{text}"', f"use key=value with {', '.join(sorted(_FILTERS))}")
        test = make(engine, value)
        tests.setdefault(key + "!" * negated, []).append(_not(test) if negated else test)
    # Labels and times narrow each other; of the others one of a key is enough.
    return [
        image for image in found
        if all(
            all(test(image) for test in group) if key.rstrip("!") in _ALL_OF or key.endswith("!")
            else any(test(image) for test in group)
            for key, group in tests.items()
        )
    ]


_ALL_OF = ("label", "before", "since", "after", "until")


def _not(test: Test) -> Test:
    return lambda image: not test(image)


_MEMBERS = {"dangling": "Dangling", "intermediate": "_intermediate", "readonly": "ReadOnly"}


def _boolean(key: str) -> Callable[[Engine, str], Test]:
    def make(engine: Engine, value: str) -> Test:
        if value.lower() not in ("true", "false", "1", "0"):
            raise UsageError(f"images: filter {key}={value}: not true or false", f"use {key}=true or {key}=false")
        wanted = value.lower() in ("true", "1")
        return lambda image: bool(image[_MEMBERS[key]]) == wanted

    return make


def _label(engine: Engine, value: str) -> Test:
    key, equals, text = value.partition("=")

    def test(image: Image) -> bool:
        labels = image["Labels"] or {}
        return key in labels and (not equals or labels[key] == text)

    return test


def _reference(engine: Engine, value: str) -> Test:
    return lambda image: any(matches(name, value) for name in image["Names"])


def _relative(newer: bool) -> Callable[[Engine, str], Test]:
    def make(engine: Engine, value: str) -> Test:
        other = parse_time(store.find(engine.paths, value)["created"])[0]
        if newer:
            return lambda image: bool(image["Created"] > other)
        return lambda image: bool(image["Created"] < other)

    return make


def _until(engine: Engine, value: str) -> Test:
    limit = time_limit(value)
    return lambda image: bool(image["Created"] < limit)


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def time_limit(value: str) -> float:
    """Seconds since 1970 of ``until``: a number of them, a duration ago (``1h30m``), or an RFC 3339 time or date."""
    try:
        return float(value)
    except ValueError:
        pass
    if len(value) >= 10 and value[4:5] == "-" and value[7:8] == "-":
        seconds = parse_time(value if len(value) > 10 else f"{value}T00:00:00Z")[0]
        if seconds:
            return seconds
    total, number, rest = 0.0, "", value
    while rest:
        unit = next((u for u in _UNITS if rest.startswith(u)), "")
        if rest[0].isdigit() or rest[0] == ".":
            number += rest[0]
            rest = rest[1:]
        elif unit and number and number.count(".") <= 1 and number != ".":
            total += float(number) * _UNITS[unit]
            number, rest = "", rest[len(unit) :]
        else:
            break
    if rest or number or not value:
        raise UsageError(f"images: filter until={value}: not a time", "use 2024-01-31, 2024-01-31T12:00:00Z or 1h30m")
    return time.time() - total


def _containers_filter(engine: Engine, value: str) -> Test:
    if value not in ("true", "false"):
        raise UsageError(f"images: filter containers={value}: not true or false", "use containers=true")
    return lambda image: bool(image["Containers"]) == (value == "true")


def _id(engine: Engine, value: str) -> Test:
    digits = value.removeprefix("sha256:")
    return lambda image: bool(image["Id"].startswith(digits))


def _digest(engine: Engine, value: str) -> Test:
    return lambda image: any(digest.startswith(value) for digest in image["_digests"])


_FILTERS: dict[str, Callable[[Engine, str], Test]] = {
    "after": _relative(True),
    "before": _relative(False),
    "containers": _containers_filter,
    "dangling": _boolean("dangling"),
    "digest": _digest,
    "id": _id,
    "intermediate": _boolean("intermediate"),
    "label": _label,
    "readonly": _boolean("readonly"),
    "reference": _reference,
    "since": _relative(True),
    "until": _until,
}
