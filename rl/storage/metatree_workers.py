"""Several processes that fill the directories of one big tree (:mod:`rl.storage.metatree`).

Which directory is next is told by a pipe that holds the numbers of tasks: who is free reads one. What a worker has
found out goes to the parent, which works too, by a pipe of its own. Imported for big images only.
"""

from __future__ import annotations

import os

from rl.config.jsonio import dumps, loads
from rl.errors import RlError, from_wire, to_wire
from rl.kernel import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from rl.storage.metatree import Directory, Maker

_MOST_WORKERS = 8
_MOST_TASKS = 1024  # two bytes each, all at once: the smallest pipe there is holds twice that


class _Shared:
    """What all processes have: the open trees, the tasks, and the pipe that says which is next."""

    __slots__ = ("next", "roots", "target", "tasks")

    def __init__(self, roots: list[int], target: int, tasks: list[list[Directory]], following: int) -> None:
        self.roots = roots
        self.target = target
        self.tasks = tasks
        self.next = following

    def fill(self, maker: Maker) -> None:
        """Take tasks until none is left."""
        while number := os.read(self.next, 2):
            for directory in self.tasks[int.from_bytes(number, "little")]:
                maker.below(self.roots, self.target, directory)


def share(maker: Maker, roots: list[int], target: int, queue: list[Directory]) -> None:
    """Fill all directories of *queue*; what workers found is added to *maker*'s. Raises OSError, RlError."""
    count = min(len(queue), _MOST_TASKS)
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    with open(write_end, "wb") as pipe:
        for number in range(count):
            pipe.write(number.to_bytes(2, "little"))
    shared = _Shared(roots, target, [queue[number::count] for number in range(count)], read_end)
    workers: list[tuple[int, int]] = []  # pid, its pipe
    parent = os.getpid()
    processes = min(len(os.sched_getaffinity(0)), _MOST_WORKERS)
    try:
        for _ in range(processes - 1):
            workers.append(_start(maker, shared, parent))  # noqa: PERF401 - one by one, to be ended if one fails
        _estimate(maker, processes)
        shared.fill(maker)
        for _, reports in workers:
            _add(maker, _read(reports))
    except BaseException:
        for child, _ in workers:
            os.kill(child, 9)
        raise
    finally:
        os.close(read_end)
        for child, reports in workers:
            os.close(reports)
            os.waitpid(child, 0)


def _estimate(maker: Maker, processes: int) -> None:
    """The others make as much as we do, about: progress speaks of all."""
    told, before = maker.progress, maker.entries
    if told:
        maker.progress = lambda count: told(before + (count - before) * processes)


def _start(maker: Maker, shared: _Shared, parent: int) -> tuple[int, int]:
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        _work(maker, shared, write_end, parent)
    os.close(write_end)
    return child, read_end


def _work(maker: Maker, shared: _Shared, reports: int, parent: int) -> NoReturn:
    try:
        process.prctl(process.PR_SET_PDEATHSIG, 9)
        if os.getppid() != parent:
            os._exit(1)
        maker.progress = None
        maker.uids, maker.gids, maker.later = set(), set(), []
        report: dict[str, Any]
        try:
            shared.fill(maker)
            report = {"uids": list(maker.uids), "gids": list(maker.gids), "later": maker.later}
        except OSError as error:
            report = {"errno": [error.errno, error.strerror]}
        except BaseException as error:
            report = {"error": to_wire(error)}
        with open(reports, "wb") as pipe:
            pipe.write(dumps(report).encode())
    finally:
        os._exit(0)


def _read(reports: int) -> dict[str, Any]:
    with open(reports, "rb", closefd=False) as pipe:
        data = pipe.read()
    if not data:
        raise RlError("make a tree of the image with other owners: a process was killed", "start the container again")
    report: dict[str, Any] = loads(data.decode())
    return report


def _add(maker: Maker, report: dict[str, Any]) -> None:
    if "error" in report:
        raise from_wire(report["error"])
    if "errno" in report:
        raise OSError(*report["errno"])
    maker.uids |= set(report["uids"])
    maker.gids |= set(report["gids"])
    assert maker.later is not None
    maker.later += [(path, index) for path, index in report["later"]]
