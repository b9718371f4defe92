"""rl secret: create, ls, inspect, rm, exists; and what a container gets of a secret (rl.engine.container_secrets).

A secret is a directory ``secrets/<id>``: secret.json, and with the driver ``file`` its data. It appears by one rename
under the lock of ``secrets/``, where its name is compared with all others. Of two with one name (a replacement that was
killed half-way) the newer counts. Source: podman-secret-create(1) and its neighbours.
"""

from __future__ import annotations

import fcntl
import os

from rl.config.jsonio import read_json, write_json
from rl.engine import secret_drivers as drivers
from rl.engine.containers import now
from rl.engine.events import emit
from rl.engine.naming import hold_staging
from rl.errors import (
    AmbiguousNameError,
    ConflictError,
    CorruptRecordError,
    NoSuchSecretError,
    RlError,
    UsageError,
    disk_hint,
)
from rl.storage import trash

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.config.model import SecretRecord
    from rl.config.paths import Paths
    from rl.engine.context import Engine

_ID_LENGTH = 25  # hex digits, as Podman's
MAX_SIZE = 512_000  # bytes; podman-secret(1): less than that
FILTERS = ("name", "id")


def check_name(name: str) -> None:
    """Raises UsageError unless *name* is one Podman takes: 1 to 253 characters, no ``,``, ``/``, ``=``, NUL."""
    if not 0 < len(name) <= 253 or any(character in name for character in ",/=\0"):
        raise UsageError(
            f"secret name {name!r} is not valid", "use 1 to 253 characters, and none of them a comma, '/' or '='"
        )


def read_source(source: str, env: bool = False) -> bytes:
    """The data that *source* names: a file, ``-`` for standard input, or with *env* a variable of the environment.

    Raises UsageError. No more is read than is needed to see that it is too much.
    """
    if env:
        value = os.environb.get(os.fsencode(source))
        if value is None:
            raise UsageError(f"cannot create store secret data: environment variable {source} is not set")
        return value
    try:
        fd = os.dup(0) if source == "-" else os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"open {source}: {(error.strerror or '').lower()}") from None
    try:
        data = b""
        while len(data) <= MAX_SIZE and (chunk := os.read(fd, 1 << 16)):
            data += chunk
    except OSError as error:
        raise UsageError(f"read {source}: {error.strerror}") from None
    finally:
        os.close(fd)
    return data


def create(
    engine: Engine, name: str, data: bytes, *, driver: str = "file", options: dict[str, str] | None = None,
    labels: dict[str, str] | None = None, replace: bool = False, ignore: bool = False,
) -> str:
    """Keep *data* as secret *name*; its id.

    *replace* takes the place of a secret with that name, *ignore* returns the id of one. Raises ConflictError where
    the name is taken, UsageError, UnsupportedError for a driver this host lacks a program for, RlError.
    """
    check_name(name)
    if replace and ignore:
        raise UsageError("--replace and --ignore contradict each other", "use one of them")
    keeper = drivers.open_driver(engine.paths, driver, options or {})
    if not 0 < len(data) < MAX_SIZE:
        raise UsageError(f"secret data must be larger than 0 and less than {MAX_SIZE} bytes")
    known = _by_name(engine.paths, name)
    if known is not None and not replace:
        return _taken(known, ignore)
    stamp = now()
    record: SecretRecord = {
        "id": _new_id(), "name": name, "driver": driver, "options": keeper.options, "labels": labels or {},
        "created": known["created"] if known else stamp, "updated": stamp,
    }
    try:
        _store(engine.paths, record, keeper, data, replace)
    except ConflictError:  # another was faster
        known = _by_name(engine.paths, name)
        if known is None:
            raise
        return _taken(known, ignore)
    emit(engine.paths, "secret", "create", record["id"], name)
    return record["id"]


def _taken(known: SecretRecord, ignore: bool) -> str:
    if ignore:
        return known["id"]
    raise ConflictError(
        f"{known['name']}: secret name in use", f"--replace takes its place; `rl secret rm {known['name']}` removes it"
    )


def _new_id() -> str:
    while True:
        found = os.urandom(13).hex()[:_ID_LENGTH]
        if not found.isdigit():  # it could be taken for a number
            return found


def _store(paths: Paths, record: SecretRecord, keeper: drivers.Driver, data: bytes, replace: bool) -> None:
    """Data first, then the record: what a killed one leaves is a staging directory, which :func:`sweep` removes."""
    staging = f"{paths.secrets}/.{record['id']}.new"
    superseded: list[SecretRecord] = []
    held, stored = hold_staging(staging), False
    try:
        write_json(f"{staging}/secret.json", record)
        keeper.store(record["id"], data, staging)
        stored = True
        with _Lock(paths):
            others = [other for other in records(paths) if other["name"] == record["name"]]
            if others and not replace:
                raise ConflictError(f"{record['name']}: secret name in use", "--replace takes its place")
            os.rename(staging, f"{paths.secrets}/{record['id']}")
            superseded = others
    except BaseException as error:
        if stored:
            keeper.delete(record["id"])
        _erase(paths, staging)
        if isinstance(error, OSError):
            raise RlError(f"keep secret {record['name']}: {error.strerror}", disk_hint(error)) from None
        raise
    finally:
        os.close(held)
    for other in superseded:
        _forget(paths, other)
    sweep(paths)


class _Lock:
    """Held while names are compared and a record appears: flock(2) on the directory itself."""

    __slots__ = ("fd", "path")

    def __init__(self, paths: Paths) -> None:
        self.path = paths.secrets

    def __enter__(self) -> None:
        self.fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self.fd, fcntl.LOCK_EX)

    def __exit__(self, *unused: object) -> None:
        os.close(self.fd)


def records(paths: Paths) -> list[SecretRecord]:
    """All secrets, by name; of several with one name the newest. Raises CorruptRecordError."""
    found: dict[str, SecretRecord] = {}
    try:
        ids = os.listdir(paths.secrets)
    except FileNotFoundError:
        return []
    for secret_id in ids:
        if len(secret_id) != _ID_LENGTH:
            continue
        path = f"{paths.secrets}/{secret_id}/secret.json"
        try:
            record: SecretRecord = read_json(path)
        except FileNotFoundError:
            continue  # removed meanwhile
        except (OSError, ValueError) as error:
            raise CorruptRecordError(f"read {path}: {error}", f"remove it: rm -r {paths.secrets}/{secret_id}") from None
        other = found.get(record["name"])
        if other is None or record["updated"] > other["updated"]:
            found[record["name"]] = record
    return [found[name] for name in sorted(found)]


def _by_name(paths: Paths, name: str) -> SecretRecord | None:
    return next((record for record in records(paths) if record["name"] == name), None)


def find(paths: Paths, name: str) -> SecretRecord:
    """The secret with this name, id or unambiguous beginning of an id. Raises NoSuchSecretError, AmbiguousNameError."""
    known = records(paths)
    for record in known:
        if name in (record["name"], record["id"]):
            return record
    found = [record for record in known if name and record["id"].startswith(name)]
    if len(found) > 1:
        raise AmbiguousNameError(
            f"more than one result secret with prefix {name}: secret is ambiguous", "give more digits, or the name"
        )
    if not found:
        raise NoSuchSecretError(f'no secret with name or id "{name}": no such secret', "`rl secret ls` lists all")
    return found[0]


def data_of(paths: Paths, record: SecretRecord) -> bytes:
    """What the secret holds. Raises NoSuchSecretError, RlError."""
    return drivers.open_driver(paths, record["driver"], record["options"]).lookup(record["id"])


def exists(engine: Engine, name: str) -> bool:
    """Whether there is such a secret."""
    try:
        find(engine.paths, name)
    except NoSuchSecretError:
        return False
    return True


def ls(engine: Engine, filters: list[str] | None = None) -> list[SecretRecord]:
    """The secrets that fit all kinds of *filters*, each ``name=REGEX`` or ``id=PREFIX``. Raises UsageError."""
    wanted: dict[str, list[str]] = {}
    for text in filters or []:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"{text!r} is not a filter", "write --filter KEY=VALUE")
        if key not in FILTERS:
            raise UsageError(f'invalid filter "{key}"', f"known: {', '.join(FILTERS)}")
        wanted.setdefault(key, []).append(value)
    return [record for record in records(engine.paths) if _fits(record, wanted)]


def _fits(record: SecretRecord, wanted: dict[str, list[str]]) -> bool:
    if "id" in wanted and not any(record["id"].startswith(value) for value in wanted["id"]):
        return False
    if "name" not in wanted:
        return True
    import re

    try:
        return any(re.search(pattern, record["name"]) for pattern in wanted["name"])
    except re.error as error:
        raise UsageError(f"--filter name: not a regular expression: {error}") from None


def inspect(engine: Engine, name: str, show: bool = False) -> dict[str, Any]:
    """Podman's document of a secret; its data only with *show*."""
    record = find(engine.paths, name)
    options = record["options"] or ({"path": engine.paths.secrets} if record["driver"] == "file" else {})
    document: dict[str, Any] = {
        "ID": record["id"],
        "CreatedAt": record["created"],
        "UpdatedAt": record["updated"],
        "Spec": {
            "Name": record["name"],
            "Driver": {"Name": record["driver"], "Options": options},
            "Labels": record["labels"],
        },
    }
    if show:
        document["SecretData"] = data_of(engine.paths, record).decode(errors="surrogateescape")
    return document


def rm(
    engine: Engine, names: list[str], *, all: bool = False, ignore: bool = False
) -> list[tuple[str, RlError | None]]:
    """Remove each of *names*; (id, or name as given, and error or None) for each, all are tried.

    Containers keep what they were given: they have a copy (podman-secret-rm(1)).
    """
    if all:
        names = [record["id"] for record in records(engine.paths)]
    results: list[tuple[str, RlError | None]] = []
    for name in names:
        try:
            with _Lock(engine.paths):
                record = find(engine.paths, name)
                _forget(engine.paths, record)
        except NoSuchSecretError as error:
            if not ignore and not all:
                results.append((name, error))
            continue
        except RlError as error:
            results.append((name, error))
            continue
        emit(engine.paths, "secret", "remove", record["id"], record["name"])
        results.append((record["id"], None))
    sweep(engine.paths)
    return results


def _forget(paths: Paths, record: SecretRecord) -> None:
    """The data goes before the record: one who is killed in between leaves what can be removed again."""
    drivers.open_driver(paths, record["driver"], record["options"]).delete(record["id"])
    _erase(paths, f"{paths.secrets}/{record['id']}")


def _erase(paths: Paths, path: str) -> None:
    """Away by one rename, and then for good: all of it is the caller's own, no user namespace is needed."""
    gone = trash.discard(paths, path)
    if gone:
        trash.remove_tree(gone)


def sweep(paths: Paths) -> None:
    """Remove what killed commands left: half-made secrets, and those that a newer one of their name replaced."""
    current = {record["id"] for record in records(paths)}
    for name in os.listdir(paths.secrets):
        if name.startswith("."):
            _sweep_staging(paths, name)
        elif len(name) == _ID_LENGTH and name not in current:
            try:
                with _Lock(paths):
                    record = read_json(f"{paths.secrets}/{name}/secret.json")
                    if record["id"] not in {kept["id"] for kept in records(paths)}:
                        _forget(paths, record)
            except (OSError, ValueError, KeyError):
                continue  # removed meanwhile
    trash.empty(paths)


def _sweep_staging(paths: Paths, name: str) -> None:
    try:
        fd = os.open(f"{paths.secrets}/{name}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _erase(paths, f"{paths.secrets}/{name}")
    except OSError:
        pass  # it is being written
    finally:
        os.close(fd)

