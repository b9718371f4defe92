"""Which containers a verb is about: --all, --latest, --filter; without reading records that do not matter.

Containers that have a monitor are listed by the run directory: with 1 000 stopped ones beside them, `rl ps` and
`rl stop --all` read nothing of these. A container that the run directory does not list does not run.

Called by ps and, through :mod:`rl.cli.common`, by all verbs that take several containers.
"""

from __future__ import annotations

import os

from rl.engine import containers
from rl.errors import CorruptRecordError, NoSuchContainerError, RlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rl.config.paths import Paths
    from rl.engine.container_filters import Candidate, Filters
    from rl.engine.context import Engine

#: Of a config.json: its first keys are id, name and created.
_HEAD = 512
_CREATED = b'"created": "'


def monitored(paths: Paths) -> list[str]:
    """The ids of containers that have a monitor, or had one that was killed; in no order."""
    try:
        return [name for name in os.listdir(f"{paths.run}/containers") if len(name) == 64]
    except FileNotFoundError:
        return []


def each(
    names: Iterable[str], action: Callable[[str], object], passed_over: tuple[type[RlError], ...] = ()
) -> list[tuple[str, RlError | None]]:
    """*action* on each of *names*: (name, error or None); those that fail with one of *passed_over* are left out."""
    results: list[tuple[str, RlError | None]] = []
    for name in names:
        try:
            action(name)
        except passed_over:
            continue
        except RlError as error:
            results.append((name, error))
        else:
            results.append((name, None))
    return results


def candidates(
    engine: Engine, filters: Filters, *, states: frozenset[str] | None = None, everywhere: bool = False, last: int = -1
) -> Iterator[Candidate]:
    """The containers that pass *filters* and, unless these ask about states, are in one of *states* (None: any).

    *last*: only so many, the newest first. *everywhere*: read the records of all, even if no other can be in *states*.
    A damaged record is told through ``engine.warn`` and left out.
    """
    from rl.engine.container_filters import MONITORED, Candidate  # not for `rl stop C`, which filters nothing

    paths = engine.paths
    if filters.any_state:
        states = None
    few = filters.only_monitored or (states is not None and MONITORED.issuperset(states))
    ids = monitored(paths) if few and not everywhere else containers.ids(paths)
    if last > 0:
        ids.sort(key=lambda container_id: _created(paths, container_id), reverse=True)
    for container_id in ids:
        candidate = Candidate(paths, container_id)
        try:
            if not filters.match(candidate) or (states is not None and candidate.status not in states):
                continue
            candidate.load()
        except NoSuchContainerError:
            continue  # removed meanwhile
        except CorruptRecordError as error:
            engine.warn(f"container {_name_of(paths, container_id)}: {error.message} (hint: {error.hint})")
            continue
        yield candidate
        last -= 1
        if last == 0:
            return


def chosen(engine: Engine, filters: Sequence[str], states: frozenset[str] | None = None) -> list[str]:
    """The ids of the containers that pass *filters*, the oldest first."""
    from rl.engine.container_filters import Filters

    found = list(candidates(engine, Filters(engine, filters), states=states))
    found.sort(key=lambda candidate: candidate.config["created"])
    return [candidate.id for candidate in found]


def latest(engine: Engine) -> str:
    """The id of the container created last. Raises NoSuchContainerError when there is none."""
    newest, found = b"", ""
    for container_id in containers.ids(engine.paths):
        created = _created(engine.paths, container_id)
        if created > newest:
            newest, found = created, container_id
    if not found:
        raise NoSuchContainerError("no containers exist: no such container", "create one with `rl run`")
    return found


def _created(paths: Paths, container_id: str) -> bytes:
    """When it was created, as its record has it, without reading all of that; b"" where there is none."""
    try:
        fd = os.open(f"{paths.container(container_id)}/config.json", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, _HEAD).partition(_CREATED)[2].partition(b'"')[0]
    finally:
        os.close(fd)


def _name_of(paths: Paths, container_id: str) -> str:
    """The name of a container whose record is damaged, from the link; else its short id."""
    try:
        for name in os.listdir(paths.names):
            if os.readlink(f"{paths.names}/{name}").endswith(container_id):
                return f"{name} ({container_id[:12]})"
    except OSError:
        pass
    return container_id[:12]
