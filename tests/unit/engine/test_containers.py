"""Records of containers: names, finding, correction, creation all or nothing, removal, sweeping; with real processes."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rl.config.paths import Paths
from rl.engine import containers, correction, naming, recording
from rl.engine.context import Engine
from rl.engine.ps import ps
from rl.engine.rm import rm
from rl.errors import (
    AmbiguousNameError,
    ConflictError,
    CorruptRecordError,
    NoSuchContainerError,
    NoSuchImageError,
    RlError,
    StateError,
    UsageError,
)
from rl.kernel import process

FORK = multiprocessing.get_context("fork")
A, B, C = "aa" * 32, "ab" * 32, "cd" * 32


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    paths = Paths(*(str(tmp_path / name) for name in ("data", "run", "config", "cache")))
    paths.ensure()
    return Engine(paths)


@pytest.fixture
def paths(engine: Engine) -> Paths:
    return engine.paths


def put(paths: Paths, container_id: str, name: str = "", state: dict[str, Any] | None = None, **config: Any) -> str:
    os.mkdir(paths.container(container_id))
    config = {"id": container_id, "name": name, "mounts": [], "layers": [], "options": {}, **config}
    Path(paths.container(container_id), "config.json").write_text(json.dumps(config))
    state = {"status": "created", "pid": 0, "exit_code": 0, **(state or {})}
    Path(paths.container(container_id), "state.json").write_text(json.dumps(state))
    if name:
        naming.take_name(paths, name, container_id)
    return container_id


def hold(paths: Paths, container_id: str, pid: int = 0) -> int:
    """Be the container's monitor: hold its lock."""
    os.makedirs(paths.container_run(container_id), exist_ok=True)
    fd = os.open(f"{paths.container_run(container_id)}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    os.write(fd, str(pid or os.getpid()).encode())
    return fd


@pytest.fixture
def sleeper() -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(["sleep", "60"]))
        return started[-1]

    yield start
    for child in started:
        child.kill()
        child.wait()


def side_by_side(count: int, task: Callable[[int], str]) -> list[str]:
    """The results of *task(0…)*, run by that many processes at one moment."""
    barrier, results = FORK.Barrier(count), FORK.SimpleQueue()

    def body(number: int) -> None:
        barrier.wait()
        try:
            results.put(task(number))
        except RlError as error:
            results.put(type(error).__name__)

    workers = [FORK.Process(target=body, args=(number,)) for number in range(count)]
    for worker in workers:
        worker.start()
    found = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    return found


# names and finding


@pytest.mark.parametrize("name", ["a", "A_b.c-9", "0", "x" * 255])
def test_good_names(name: str) -> None:
    naming.check_name(name)


@pytest.mark.parametrize("name", ["", "_a", "-a", ".a", "a b", "a/b", "é", "a\n", "x" * 256])
def test_bad_names(name: str) -> None:
    with pytest.raises(UsageError, match="names must match"):
        naming.check_name(name)


def test_find(paths: Paths) -> None:
    put(paths, A, "web")
    put(paths, B, "db")
    put(paths, C, "aa")  # a name that is also the beginning of an id wins
    assert [containers.find(paths, text) for text in ("web", A, "aaa", "ab", "cd", "aa")] == [A, A, A, B, C, C]
    with pytest.raises(AmbiguousNameError, match="2 containers"):
        containers.find(paths, "a")
    for text in ("", ".", "..", "/", "../names/web", "we", "aaab", "zz", A[:-1] + "b", "x" * 300):
        with pytest.raises(NoSuchContainerError) as caught:
            containers.find(paths, text)
        assert caught.value.hint


def test_find_passes_over_what_is_no_container(paths: Paths) -> None:
    os.mkdir(paths.container(A))  # no config.json
    os.symlink(f"../containers/{B}", f"{paths.names}/gone")
    os.mkdir(f"{paths.containers}/.{C}.new")
    assert containers.ids(paths) == [A]
    for text in (A, "aa", "gone", C):
        with pytest.raises(NoSuchContainerError):
            containers.find(paths, text)


def test_a_name_is_taken_once(paths: Paths) -> None:
    for number in range(8):
        put(paths, f"{number:064x}")

    def take(number: int) -> str:
        naming.take_name(paths, "web", f"{number:064x}")
        return f"{number:064x}"

    found = side_by_side(8, take)
    assert sorted(found)[1:] == ["ConflictError"] * 7
    assert os.readlink(f"{paths.names}/web") == f"../containers/{min(found)}"


def test_a_stale_name_is_taken_once(paths: Paths) -> None:
    """What a killed removal left is free, but for one of those who want it."""
    for number in range(8):
        put(paths, f"{number:064x}")
    for attempt in range(20):
        name = f"web{attempt}"
        os.symlink(f"../containers/{C}", f"{paths.names}/{name}")

        def take(number: int, name: str = name) -> str:
            naming.take_name(paths, name, f"{number:064x}")
            return f"{number:064x}"

        found = side_by_side(8, take)
        assert sorted(found)[1:] == ["ConflictError"] * 7
        assert os.readlink(f"{paths.names}/{name}") == f"../containers/{min(found)}"


def test_names_of_containers_being_made_are_in_use(paths: Paths) -> None:
    os.symlink(f"../containers/{A}", f"{paths.names}/web")
    held = naming.hold_staging(f"{paths.containers}/.{A}.new")
    with pytest.raises(ConflictError, match="already in use"):
        naming.take_name(paths, "web", B)
    naming.sweep(paths)
    assert os.path.isdir(f"{paths.containers}/.{A}.new")
    os.close(held)  # as when it is killed
    naming.take_name(paths, "web", B)
    assert not os.path.exists(f"{paths.containers}/.{A}.new")


def test_sweep_and_creation_side_by_side(paths: Paths) -> None:
    def work(number: int) -> str:
        for attempt in range(40):
            if number % 2:
                naming.sweep(paths)
                continue
            staging = f"{paths.containers}/.{number:032x}{attempt:032x}.new"
            held = naming.hold_staging(staging)
            Path(staging, "config.json").write_text("{}")
            os.rename(staging, paths.container(f"{number:032x}{attempt:032x}"))
            os.close(held)
        return "done"

    assert side_by_side(4, work) == ["done"] * 4
    assert len(containers.ids(paths)) == 80
    assert len(os.listdir(paths.containers)) == 80


# records


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"id": 1, "name": "a"}', b'{"id": "a"}'])
def test_corrupt_config(paths: Paths, content: bytes) -> None:
    put(paths, A, "web")
    Path(paths.container(A), "config.json").write_bytes(content)
    with pytest.raises(CorruptRecordError, match=r"config\.json") as caught:
        containers.read_config(paths, A)
    assert "rl rm --force" in caught.value.hint


@pytest.mark.parametrize(
    "content",
    [
        b"{", b"[]", b"{}", b'{"status": 7}', b'{"status": ["running"]}', b'{"status": "running", "pid": "1"}',
        b'{"status": "running", "network": []}', b'{"status": "running", "network": {"helpers": [1]}}',
        b'{"status": "running", "network": {"helpers": [[1, "x"]]}}',
    ],
)
def test_corrupt_state(paths: Paths, content: bytes) -> None:
    put(paths, A, "web")
    Path(paths.container(A), "state.json").write_bytes(content)
    with pytest.raises(CorruptRecordError, match=r"state\.json"):
        containers.read_state(paths, A)


@pytest.mark.parametrize("torn", [b"", bytes(4096)])
def test_state_torn_by_a_power_cut(paths: Paths, torn: bytes) -> None:
    """What was not fsynced has a name and no content, or zeros: the container has ended, nothing of it is lost."""
    put(paths, A, "web")
    Path(paths.container(A), "state.json").write_bytes(torn)
    state = containers.read_state(paths, A)
    assert (state["status"], state["exit_code"]) == ("exited", 255) and "power" in state["error"]
    assert containers.read_state(paths, A) == state and left(paths) == [A, "web"]


@pytest.mark.parametrize("file", ["config.json", "state.json"])
@pytest.mark.parametrize("look", ["ps", "read", "name"])
def test_rm_container_torn_by_a_power_cut(engine: Engine, file: str, look: str) -> None:
    """Its records are not fsynced: whoever looks removes it, with its name."""
    paths = engine.paths
    config = config_of(A, "web", remove=True)
    recording.record(engine, config, {})
    Path(paths.container(A), file).write_bytes(b"")
    if look == "ps":
        assert ps(engine, all=True) == []
    elif look == "read":
        with pytest.raises(NoSuchContainerError, match="power" if file == "config.json" else "."):
            containers.read_config(paths, A)
            containers.read_state(paths, A)
    else:
        naming.take_name(paths, "web", B)
        assert os.readlink(f"{paths.names}/web") == f"../containers/{B}"
    assert A not in os.listdir(paths.containers)
    assert look == "name" or left(paths) == []


def test_missing_records(paths: Paths) -> None:
    for read in (containers.read_config, containers.read_state):
        with pytest.raises(NoSuchContainerError):
            read(paths, A)


def running(child: subprocess.Popen[bytes], **more: Any) -> dict[str, Any]:
    return {"status": "running", "pid": child.pid, "pid_start": process.start_time(child.pid), "boot_id": process.boot_id(), **more}


def test_running_with_its_monitor(paths: Paths, sleeper: Callable[[], subprocess.Popen[bytes]]) -> None:
    child = sleeper()
    put(paths, A, "web", running(child))
    held = hold(paths, A)
    assert containers.read_state(paths, A)["status"] == "running"
    assert child.poll() is None
    os.close(held)


def test_the_monitor_was_killed(paths: Paths, sleeper: Callable[[], subprocess.Popen[bytes]]) -> None:
    """What it left is ended, the record corrected, its run directory removed."""
    child, helper = sleeper(), sleeper()
    put(paths, A, "web", running(child, network={"helpers": [[helper.pid, process.start_time(helper.pid)]]}))
    os.close(hold(paths, A))
    state = containers.read_state(paths, A)
    assert (state["status"], state["pid"], state["exit_code"], state["error"]) == ("exited", 0, 137, "the monitor was killed")
    assert (child.wait(5), helper.wait(5)) == (-9, -9)
    assert json.loads(Path(paths.container(A), "state.json").read_text()) == state
    assert not os.path.exists(paths.container_run(A))


def test_another_process_has_the_number_now(paths: Paths, sleeper: Callable[[], subprocess.Popen[bytes]]) -> None:
    child = sleeper()
    put(paths, A, "web", {**running(child), "pid_start": process.start_time(child.pid) - 1})
    assert containers.read_state(paths, A)["status"] == "exited"
    assert child.poll() is None


def test_the_host_was_restarted(paths: Paths, sleeper: Callable[[], subprocess.Popen[bytes]]) -> None:
    child = sleeper()
    put(paths, A, "web", {**running(child), "boot_id": "another"})
    state = containers.read_state(paths, A)
    assert (state["status"], state["exit_code"], state["error"]) == ("exited", 255, "the host was restarted")
    assert child.poll() is None


def test_many_correct_the_record_at_once(paths: Paths, sleeper: Callable[[], subprocess.Popen[bytes]]) -> None:
    child = sleeper()
    put(paths, A, "web", running(child))
    assert side_by_side(6, lambda _number: containers.read_state(paths, A)["status"]) == ["exited"] * 6
    assert not os.path.exists(paths.container_run(A))


def test_a_look_does_not_undo_a_start(paths: Paths, sleeper: Callable[[], subprocess.Popen[bytes]]) -> None:
    """Between the look at a dead monitor's record and its correction the container was started again."""
    old, new = sleeper(), sleeper()
    put(paths, A, "web", running(old))
    stale = containers.read_record(f"{paths.container(A)}/state.json")
    held = hold(paths, A)
    containers.write_state(paths, A, running(new))  # type: ignore[arg-type]
    assert correction.bury(paths, A, stale) is None  # type: ignore[arg-type]
    assert containers.read_state(paths, A)["pid"] == new.pid
    assert os.path.exists(f"{paths.container_run(A)}/lock")
    assert new.poll() is None
    os.close(held)


# creation


def config_of(container_id: str, name: str = "", **more: Any) -> Any:
    return {"id": container_id, "name": name, "image_id": "", "image": "", "remove": False, "layers": [], "mounts": [], "options": {}, "log": {}, **more}


def left(paths: Paths) -> list[str]:
    return os.listdir(paths.containers) + os.listdir(paths.names)


def test_record(engine: Engine, tmp_path: Path) -> None:
    config = config_of(A)
    recording.record(engine, config, {"cidfile": str(tmp_path / "cid")})
    assert containers.find(engine.paths, config["name"]) == A
    assert containers.read_state(engine.paths, A)["status"] == "created"
    assert (tmp_path / "cid").read_text() == A
    assert os.listdir(engine.paths.containers) == [A]
    assert os.stat(engine.paths.container(A)).st_mode & 0o777 == 0o700


def test_record_refused_leaves_nothing(engine: Engine, tmp_path: Path) -> None:
    put(engine.paths, A, "web")
    before = left(engine.paths)
    cidfile = tmp_path / "cid"
    for config, error in ((config_of(B, "web"), ConflictError), (config_of(B, "db", image_id="00" * 32), NoSuchImageError)):
        with pytest.raises(error):
            recording.record(engine, config, {"cidfile": str(cidfile)})
        assert left(engine.paths) == before
        assert not cidfile.exists()
    cidfile.write_text("mine")
    with pytest.raises(ConflictError, match="the file exists"):
        recording.record(engine, config_of(B, "db"), {"cidfile": str(cidfile)})
    with pytest.raises(RlError, match="No such file"):
        recording.record(engine, config_of(B, "db"), {"cidfile": str(tmp_path / "no/cid")})
    assert left(engine.paths) == before
    assert cidfile.read_text() == "mine"


def test_record_that_cannot_be_written_leaves_nothing(engine: Engine) -> None:
    with pytest.raises(TypeError):
        recording.record(engine, config_of(B, "db", labels={"x": object()}), {})
    assert left(engine.paths) == []


def test_killed_at_any_moment_a_record_is_whole_or_absent(engine: Engine) -> None:
    """SIGKILL before the first system call that changes a directory, before the second, and so on to the end."""
    code = (
        "import os, sys\n"
        "from rl.config.paths import Paths\nfrom rl.engine import recording\nfrom rl.engine.context import Engine\n"
        "engine = Engine(Paths(*sys.argv[1:5]))\n"
        "left = int(sys.argv[6])\n"
        "def audit(event, arguments):\n"
        "    global left\n"
        "    if event in ('os.mkdir', 'open', 'os.symlink', 'os.rename', 'fcntl.flock') and armed:\n"
        "        left -= 1\n"
        "        if left < 0: os.kill(os.getpid(), 9)\n"
        "armed = False\nsys.addaudithook(audit)\narmed = True\n"
        "recording.record(engine, {'id': sys.argv[5], 'name': 'web', 'image_id': '', 'image': '', 'remove': False}, {})\n"
    )
    paths = engine.paths
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    outcomes = set()
    for number in range(40):
        container_id = f"{number:064x}"
        argv = [sys.executable, "-c", code, paths.data, paths.run, paths.config, paths.cache, container_id, str(number)]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True)
        assert done.returncode in (0, -9), done.stderr
        outcomes.add(done.returncode)
        if container_id in containers.ids(paths):
            assert containers.find(paths, "web") == container_id
            assert containers.read_config(paths, container_id)["name"] == "web"
            assert containers.read_state(paths, container_id)["status"] == "created"
            rm(engine, ["web"])
        else:
            assert done.returncode == -9
        naming.sweep(paths)
        assert left(paths) == []
        if done.returncode == 0:
            break
    assert outcomes == {0, -9}


# removal


def test_rm(engine: Engine) -> None:
    paths = engine.paths
    os.mkdir(f"{paths.volumes}/{C}")
    anonymous = [{"type": "volume", "source": C, "destination": "/x", "options": [], "anonymous": True}]
    put(paths, A, "web", mounts=anonymous)
    put(paths, B, "db", mounts=anonymous)
    results = rm(engine, ["web", "none"])
    assert [(name, type(error)) for name, error in results] == [("web", type(None)), ("none", NoSuchContainerError)]
    assert left(paths) == [B, "db"]
    assert os.listdir(paths.volumes) == [C]
    assert rm(engine, ["none"], ignore=True) == []
    assert rm(engine, [], all=True, volumes=True) == [(B, None)]
    assert left(paths) + os.listdir(paths.volumes) + os.listdir(f"{paths.run}/containers") == []


def test_rm_of_a_running_container_needs_force(engine: Engine, sleeper: Callable[[], subprocess.Popen[bytes]]) -> None:
    put(engine.paths, A, "web", running(sleeper()))
    held = hold(engine.paths, A)
    ((_, error),) = rm(engine, ["web"])
    assert isinstance(error, ConflictError)
    assert "--force" in error.hint
    os.close(held)


def test_rm_while_it_is_being_started(engine: Engine) -> None:
    """`created`, but a monitor has the lock: it is about to mount what would be removed."""
    put(engine.paths, A, "web")
    held = hold(engine.paths, A)
    ((_, error),) = rm(engine, ["web"])
    assert isinstance(error, StateError)
    assert containers.find(engine.paths, "web") == A
    assert os.path.exists(f"{engine.paths.container_run(A)}/lock")
    os.close(held)
    assert rm(engine, ["web"]) == [("web", None)]


@pytest.mark.parametrize("file", ["config.json", "state.json"])
@pytest.mark.parametrize("content", [None, b"", b"[]", b"{}"])
def test_rm_of_damaged_records(engine: Engine, file: str, content: bytes | None) -> None:
    put(engine.paths, A, "web")
    path = Path(engine.paths.container(A), file)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    if file != "state.json" or content:
        ((_, error),) = rm(engine, [A])
        assert isinstance(error, CorruptRecordError | NoSuchContainerError)
        assert left(engine.paths) == [A, "web"]
    assert rm(engine, [A], force=True) == [(A, None)]
    assert left(engine.paths) == []


def test_rm_of_a_damaged_record_ends_its_monitor(engine: Engine) -> None:
    put(engine.paths, A, "web")
    Path(engine.paths.container(A), "state.json").write_bytes(b"junk")
    code = "import fcntl,os,sys,time; fd=os.open(sys.argv[1],os.O_RDWR|os.O_CREAT); fcntl.flock(fd,2); os.write(fd,b'%d'%os.getpid()); print('held',flush=True); time.sleep(60)"
    os.makedirs(engine.paths.container_run(A))
    monitor = subprocess.Popen([sys.executable, "-c", code, f"{engine.paths.container_run(A)}/lock"], stdout=subprocess.PIPE)
    assert monitor.stdout and monitor.stdout.readline() == b"held\n"
    assert rm(engine, ["web"], force=True) == [("web", None)]
    assert monitor.wait(5) == -15
    monitor.stdout.close()


def test_rm_sweeps(engine: Engine) -> None:
    os.symlink(f"../containers/{B}", f"{engine.paths.names}/gone")
    os.mkdir(f"{engine.paths.containers}/.{C}.new")
    assert rm(engine, []) == []
    assert left(engine.paths) == []
