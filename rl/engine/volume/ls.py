"""rl volume ls, and its filters, which `rl volume prune` has too (podman-volume-ls(1))."""

from __future__ import annotations

from rl.engine.times import epoch_ns, go_time, moment_ns
from rl.engine.volume import records
from rl.engine.volume.inspect import of_record
from rl.errors import CorruptRecordError, NoSuchVolumeError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rl.config.model import VolumeRecord
    from rl.engine.context import Engine

    Test = Callable[["Candidate"], bool]


class Candidate:
    """A volume that may be listed."""

    __slots__ = ("created", "name", "record", "used_by")

    def __init__(self, name: str, record: VolumeRecord, used_by: list[str]) -> None:
        self.name = name
        self.record = record
        self.used_by = used_by
        self.created = epoch_ns(record.get("CreatedAt", ""))


def ls(engine: Engine, filters: list[str] | None = None) -> list[dict[str, Any]]:
    """The documents of the volumes that pass *filters*, by name. A damaged record is told through ``engine.warn``."""
    paths = engine.paths
    return [of_record(paths, found.name, found.record) for found in candidates(engine, filters or [])]


def candidates(engine: Engine, filters: list[str]) -> list[Candidate]:
    """The volumes that pass *filters*. Raises UsageError, NoSuchVolumeError."""
    tests = parse_filters(engine, filters)
    users = records.users(engine.paths) if any(text.startswith("dangling") for text in filters) else {}
    found = []
    for name in records.names(engine.paths):
        try:
            candidate = Candidate(name, records.read(engine.paths, name), users.get(name, []))
        except NoSuchVolumeError:
            continue  # removed meanwhile
        except CorruptRecordError as error:
            engine.warn(f"{error.message} (hint: {error.hint})")
            continue
        if all(test(candidate) for test in tests):
            found.append(candidate)
    return found


def parse_filters(engine: Engine, filters: list[str]) -> list[Test]:
    """One test a key: of one key's values one is enough, but all of label and label!."""
    by_key: dict[str, list[Test]] = {}
    for text in filters:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f'invalid filter "{text}"', "write it as KEY=VALUE: --filter name=data")
        make = _FILTERS.get(key)
        if make is None:
            raise UsageError(f'"{key}" is an invalid volume filter', f"known filters: {', '.join(_FILTERS)}")
        by_key.setdefault(key, []).append(make(engine, value))

    def joined(key: str, tests: list[Test]) -> Test:
        if key.startswith("label"):
            return lambda volume: all(test(volume) for test in tests)
        return lambda volume: any(test(volume) for test in tests)

    return [joined(key, tests) for key, tests in by_key.items()]


def _boolean(key: str, value: str) -> bool:
    if value.lower() in ("true", "1"):
        return True
    if value.lower() in ("false", "0"):
        return False
    raise UsageError(
        f'"{value}" is not a valid value for the "{key}" filter - must be true or false',
        f"use {key}=true or {key}=false",
    )


def _dangling(engine: Engine, value: str) -> Test:
    wanted = _boolean("dangling", value)
    return lambda volume: (not volume.used_by) == wanted


def _anonymous(engine: Engine, value: str) -> Test:
    wanted = _boolean("anonymous", value)
    return lambda volume: bool(volume.record.get("Anonymous")) == wanted


def _driver(engine: Engine, value: str) -> Test:
    return lambda volume: volume.record.get("Driver", "local") == value


def _scope(engine: Engine, value: str) -> Test:
    return lambda volume: value == "local"


def _label(engine: Engine, value: str) -> Test:
    key, equals, text = value.partition("=")

    def test(volume: Candidate) -> bool:
        labels = volume.record.get("Labels") or {}
        return key in labels and (not equals or labels[key] == text)

    return test


def _not_label(engine: Engine, value: str) -> Test:
    has = _label(engine, value)
    return lambda volume: not has(volume)


def _name(engine: Engine, value: str) -> Test:
    import re

    try:
        pattern = re.compile(value)
    except re.error as error:
        raise UsageError(f"filter name={value}: {error}", "it is a regular expression") from None
    return lambda volume: pattern.search(volume.name) is not None


def _opt(engine: Engine, value: str) -> Test:
    key, equals, text = value.partition("=")

    def test(volume: Candidate) -> bool:
        options = volume.record.get("Options") or {}
        return key in options and (not equals or options[key] == text)

    return test


def _until(engine: Engine, value: str) -> Test:
    limit = moment_ns(value)
    return lambda volume: volume.created < limit


def _since(engine: Engine, value: str) -> Test:
    other = epoch_ns(records.read(engine.paths, records.find(engine.paths, value)).get("CreatedAt", ""))
    return lambda volume: volume.created > other


_FILTERS: dict[str, Callable[[Engine, str], Test]] = {
    "after": _since, "anonymous": _anonymous, "dangling": _dangling, "driver": _driver, "label": _label,
    "label!": _not_label, "name": _name, "opt": _opt, "scope": _scope, "since": _since, "until": _until,
}


def row(document: dict[str, Any]) -> dict[str, Any]:
    """The fields that templates of `rl volume ls` know."""
    nothing: dict[str, Any] = {"Anonymous": False, "GID": 0, "NeedsChown": False, "NeedsCopyUp": False, "Status": {},
                               "StorageID": "", "Timeout": 0, "UID": 0}
    created = document["CreatedAt"]
    return {**nothing, **document, "CreatedAt": lambda: go_time(created)}
