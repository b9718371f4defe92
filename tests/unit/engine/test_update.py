"""rl update: all of a change or nothing of it, in the cgroup and in the record. The cgroup is a directory of plain files:
what the kernel makes of them is tested in tests/vm."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rl.config.paths import Paths
from rl.engine import containers, naming
from rl.engine.context import Engine
from rl.engine.update import update
from rl.errors import NoSuchContainerError, RlError, StateError, UnsupportedError, UsageError

ID = "ab" * 32
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    paths = Paths(*(str(tmp_path / name) for name in ("data", "run", "config", "cache")))
    paths.ensure()
    return Engine(paths)


def put(engine: Engine, limits: dict[str, Any], **state: Any) -> None:
    directory = Path(engine.paths.container(ID))
    directory.mkdir()
    config = {"id": ID, "name": "web", "mounts": [], "layers": [], "options": {}, "limits": limits}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "state.json").write_text(json.dumps({"status": "created", "pid": 0, "exit_code": 0, **state}))
    naming.take_name(engine.paths, "web", ID)


def record(engine: Engine) -> Any:
    path = Path(engine.paths.container(ID), "updated.json")
    return json.loads(path.read_text()) if path.exists() else None


@pytest.fixture
def running(engine: Engine, tmp_path: Path) -> Iterator[Path]:
    """A container with a memory limit of 64 MiB that runs: somebody holds its lock. Its cgroup's directory."""
    group = tmp_path / "rl-x.scope" / "container"
    group.mkdir(parents=True)
    for name, value in (("memory.max", "67108864"), ("memory.swap.max", "67108864"), ("cpu.max", "max 100000"), ("pids.max", "max")):
        (group / name).write_text(value)
    put(engine, {"memory": {"limit": 64 << 20, "swap": 128 << 20}}, status="running", pid=os.getpid(), cgroup=str(group))
    os.makedirs(engine.paths.container_run(ID))
    fd = os.open(f"{engine.paths.container_run(ID)}/lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    os.write(fd, str(os.getpid()).encode())
    yield group
    os.close(fd)


def has(group: Path, name: str, value: object) -> bool:
    """A plain file keeps the end of a longer value before."""
    return (group / name).read_text().startswith(str(value))


def test_a_running_container(engine: Engine, running: Path) -> None:
    assert update(engine, "web", {"memory": "32m", "pids_limit": "7"}) == ID
    assert has(running, "memory.max", 32 << 20) and has(running, "memory.swap.max", 32 << 20) and has(running, "pids.max", 7)
    assert record(engine) == {"limits": {"memory": {"limit": 32 << 20, "swap": 64 << 20}, "pids": {"limit": 7}}}
    # The second change starts from the first; config.json is what was asked at create.
    update(engine, "web", {"cpus": "0.5", "memory_swap": "-1"})
    assert has(running, "cpu.max", "50000 100000") and has(running, "memory.swap.max", "max")
    config = containers.read_config(engine.paths, ID)
    assert config["limits"] == {"memory": {"limit": 64 << 20, "swap": 128 << 20}}
    assert containers.limits(engine.paths, config) == {
        "memory": {"limit": 32 << 20, "swap": -1}, "pids": {"limit": 7}, "cpu": {"quota": 50_000, "period": 100_000},
    }  # fmt: skip
    update(engine, "web", {"pids_limit": "-1"})
    assert has(running, "pids.max", "max")


def test_all_or_nothing(engine: Engine, running: Path) -> None:
    (running / "cgroup.controllers").write_text("cpu memory\n")
    (running / "pids.max").unlink()
    with pytest.raises(UnsupportedError, match="limits cannot be set: pids limit 7: controller pids is not available"):
        update(engine, "web", {"memory": "32m", "cpus": "1", "pids_limit": "7"})
    assert has(running, "memory.max", 64 << 20) and has(running, "cpu.max", "max 100000")
    assert record(engine) is None


def test_a_stopped_container(engine: Engine) -> None:
    put(engine, {})
    update(engine, "web", {"memory": "32m"})
    assert record(engine)["limits"] == {"memory": {"limit": 32 << 20, "swap": 64 << 20}}


@pytest.mark.parametrize(
    ("name", "options", "error", "says"),
    [
        ("nobody", {"memory": "1m"}, NoSuchContainerError, "no such container"),
        ("web", {}, UsageError, "nothing to change"),
        ("web", {"memory_swap": "1m"}, UsageError, "needs --memory"),
        ("web", {"memory_swappiness": 5}, UnsupportedError, "cgroup v2"),
    ],
)
def test_refused(engine: Engine, name: str, options: dict[str, Any], error: type[RlError], says: str) -> None:
    put(engine, {})
    with pytest.raises(error, match=says):
        update(engine, name, options)
    assert record(engine) is None


def test_running_without_a_cgroup(engine: Engine, running: Path) -> None:
    path = Path(engine.paths.container(ID), "state.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "cgroup": ""}))
    with pytest.raises(UnsupportedError, match="has no cgroup"):
        update(engine, "web", {"memory": "32m"})
    path.write_text(json.dumps({**json.loads(path.read_text()), "cgroup": "/nowhere/at/all"}))
    with pytest.raises(StateError, match="just ended"):
        update(engine, "web", {"memory": "32m"})


def test_changes_at_the_same_time(engine: Engine) -> None:
    """None is lost: each sees what the one before has changed."""
    put(engine, {})
    changes = [{"pids_limit": "5"}, {"memory": "32m"}, {"cpus": "1"}, {"cpu_shares": "7"}, {"cpuset_cpus": "0"}, {"blkio_weight": "50"}]
    workers = [FORK.Process(target=update, args=(engine, "web", change)) for change in changes]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
        assert worker.exitcode == 0
    found = record(engine)["limits"]
    assert set(found) == {"pids", "memory", "cpu", "blockIO"} and set(found["cpu"]) == {"quota", "period", "shares", "cpus"}
