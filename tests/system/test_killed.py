"""SIGKILL at random moments, 50 rounds; after it every command works, nothing is left behind or lost."""

from __future__ import annotations

import io
import os
import random
import select
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import images, users
from support.registry import Registry
from system.conftest import Rl, eventually, make_lane, records, unique_user

ROUNDS = 50


def processes_of(rl: Rl, word: str) -> list[int]:
    return [int(line.split()[0]) for line in rl.user.processes() if word in line]


def gone(pid: object) -> bool:
    """Whether *pid* has ended; its status may not have been asked for, when its parent was killed."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def kill(*pids: int) -> None:
    """SIGKILL, and wait for the end: until then its locks are held, and it does count as alive."""
    for pid in pids:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            assert select.select([pidfd], [], [], 10)[0]
        except ProcessLookupError:
            pass
        finally:
            os.close(pidfd)


def quiet(rl: Rl, *words: str) -> subprocess.Popen[bytes]:
    return rl.user.popen("rl", *rl.flags, *words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL)


def left_by_launches(rl: Rl) -> list[Path]:
    """What only a launch at work has."""
    found = [*(rl.run_dir / "containers").iterdir(), *(rl.data / "containers").glob(".*"), *(rl.data / "trash").iterdir()]
    for directory in (rl.run_dir, rl.user.runtime_dir / "netns", rl.data, rl.run_dir / "runtime"):
        for pattern in ("netns.*", "slirp.*", "rl-*", ".probe-*", "?" * 64):
            found += directory.glob(pattern)
    return found


def nothing_left(rl: Rl) -> None:
    """Without any container: no name, volume, process, staging or run directory."""
    assert rl.containers() == []
    assert records(rl) == {}
    assert list((rl.data / "names").iterdir()) == []
    assert list((rl.data / "volumes").iterdir()) == []
    assert [path for path in (rl.data / "layers").iterdir() if path.name[0] == "."] == []
    eventually(lambda: not [line for line in rl.user.processes() if any(w in line for w in ("rl", "pasta", "sleep"))])
    eventually(lambda: rl.ok("ps", "-q") == "" and left_by_launches(rl) == [])


def consistent(rl: Rl) -> None:
    """Every command answers; records are true; once the containers are removed, nothing is left."""
    rl.ok("ps", "-a")
    rl.ok("images")
    assert rl.ok("run", "--rm", "busybox", "echo", "works") == "works"
    for container in rl.containers():
        rl.ok("inspect", container)
    rl.clean()
    nothing_left(rl)


@pytest.mark.parametrize("rm", [False, True], ids=["kept", "rm"])
def test_the_command_line_is_killed(rl: Rl, rm: bool) -> None:
    """At any moment of `rl run -d`: the container runs and is listed, or there is none."""
    seed = random.Random(1)
    for number in range(ROUNDS // 2):
        process = quiet(rl, "run", "-d", *(["--rm", "-v", "/v"] if rm else []), "--name", f"c{number}", "busybox",
                        "sleep", "1000")
        time.sleep(seed.uniform(0, 0.15))
        process.kill()
        process.wait()
        time.sleep(0.02)
        assert rl("ps", "-a").returncode == 0
    eventually(lambda: all(state["status"] == "running" for state in records(rl).values()))
    consistent(rl)


@pytest.mark.parametrize("which", ["monitor", "both"])
def test_the_launching_monitor_is_killed(rl: Rl, which: str) -> None:
    """Of a container that is being started, alone or with its command line: it runs, or is gone with all of it."""
    seed = random.Random(4)
    for number in range(ROUNDS // 2):
        # Not a name of hexadecimal digits: it might begin the id of another container.
        process = quiet(rl, "run", "-d", "--name", f"run{number}", "-v", "/v", "busybox", "sleep", "1000")
        time.sleep(seed.uniform(0.02, 0.15))
        others = [pid for pid in processes_of(rl, " run -d ") if pid != process.pid]
        kill(*others, *([process.pid] if which == "both" else []))
        process.wait(timeout=20)
        assert rl("ps", "-a").returncode == 0
        if which == "monitor" and process.returncode:
            assert rl("inspect", f"run{number}").returncode == 125
    eventually(lambda: all(state["status"] != "running" or not gone(state["pid"]) for state in records(rl).values()))
    rl.ok("rm", "-a", "-f", "-v", "-t", "0")
    nothing_left(rl)


def test_the_monitor_is_killed(rl: Rl) -> None:
    """Its container ends with it; the record says so; the name is free again after rm."""
    seed = random.Random(2)
    for _ in range(ROUNDS):
        container = rl.ok("run", "-d", "--name", "victim", "busybox", "sleep", "1000")
        time.sleep(seed.uniform(0, 0.1))
        state = records(rl)[container]
        kill(int(str(state["monitor_pid"])))
        eventually(lambda: gone(state["pid"]), 10, 0.01)  # noqa: B023
        assert rl.ok("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "victim") == "exited 137"
        assert rl.ok("ps", "-q") == ""
        rl.ok("rm", "victim")
    consistent(rl)


@pytest.mark.parametrize("look", ["ps", "ps -a", "inspect", "rm", "run"])
def test_the_monitor_of_an_rm_container_is_killed(rl: Rl, look: str) -> None:
    """Whoever looks next removes the container, with its anonymous volumes and its cidfile; named ones stay."""
    cidfile = rl.user.home / "cid"
    container = rl.ok("run", "-d", "--rm", "--name", "victim", "-v", "/v", "-v", "kept:/k", "--cidfile", cidfile, "busybox",
                      "sh", "-c", "echo x > /v/x; sleep 1000")
    state = records(rl)[container]
    kill(int(str(state["monitor_pid"])))
    eventually(lambda: gone(state["pid"]), 10, 0.01)
    if look == "inspect":
        assert "no such" in rl("inspect", "victim").stderr
    elif look == "rm":
        rl("rm", "victim")
    elif look == "run":
        assert rl.ok("run", "--rm", "--name", "victim", "busybox", "echo", "again") == "again"
    else:
        assert "victim" not in rl.ok(*look.split())
    assert records(rl) == {} and not cidfile.exists()
    assert [path.name for path in (rl.data / "volumes").iterdir()] == ["kept"]
    subprocess.run(["rm", "-rf", rl.data / "volumes/kept"], check=True)
    assert rl("inspect", "victim").returncode == 125
    nothing_left(rl)


def test_an_ending_monitor_is_killed(rl: Rl) -> None:
    """While it cleans up: the record is true, --rm has its way."""
    seed = random.Random(5)
    for number in range(ROUNDS // 2):
        container = rl.ok("run", "-d", "--name", "victim", *(["--rm", "-v", "/v"] if number % 2 else []), "busybox",
                          "sleep", "1000")
        state = records(rl)[container]
        kill(int(str(state["pid"])))
        time.sleep(seed.uniform(0, 0.012))
        kill(int(str(state["monitor_pid"])))
        if number % 2:
            assert rl.ok("ps", "-a", "-q") == ""
        else:
            shown = rl.ok("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}} {{.State.Pid}}", "victim")
            assert shown == "exited 137 0"
            rl.ok("rm", "victim")
    consistent(rl)


def test_rm_is_killed(rl: Rl) -> None:
    """The container is there as before, with its name, or gone; a second `rl rm` finishes."""
    seed = random.Random(6)
    for number in range(ROUNDS // 2):
        words = ["run", "-d"] if number % 2 else ["create"]
        rl.ok(*words, "--name", "victim", "-v", "/v", "busybox", "sleep", "1000")
        process = quiet(rl, "rm", "-f", "-v", "-t", "0", "victim")
        time.sleep(seed.uniform(0.01, 0.08))
        process.kill()
        process.wait()
        names = rl.ok("ps", "-a", "--format", "{{.Names}}")
        assert names in ("victim", "")
        rl.ok("rm", "-f", "-v", "-i", "-t", "0", "victim")
    consistent(rl)


def test_exec_is_killed(rl: Rl) -> None:
    """The container goes on, and takes further commands."""
    container = rl.ok("run", "-d", "busybox", "sleep", "1000")
    seed = random.Random(7)
    for number in range(ROUNDS // 2):
        process = quiet(rl, "exec", *(["-i"] if number % 2 else []), container, "cat")
        time.sleep(seed.uniform(0.01, 0.08))
        process.kill()
        process.wait()
    assert rl.ok("exec", container, "echo", "works") == "works"
    assert rl.ok("inspect", "--format", "{{.State.Status}}", container) == "running"
    consistent(rl)


def test_load_is_killed(busybox_archive: Path) -> None:
    """The image is there and whole, or not there; the next load gets it, and rmi frees all."""
    rl = Rl(unique_user("rltest-killed"))
    seed = random.Random(8)
    for _ in range(ROUNDS // 2):
        process = quiet(rl, "load", "-q", "-i", str(busybox_archive))
        time.sleep(seed.uniform(0.03, 0.35))
        kill(*processes_of(rl, "rl load"), process.pid)
        process.wait()
        if rl.ok("images", "-q"):
            assert rl.ok("run", "--rm", "--network=none", "busybox", "echo", "works") == "works"
            rl.ok("rmi", "busybox")
    rl.ok("load", "-q", "-i", busybox_archive)
    rl.ok("rmi", "busybox")
    assert list((rl.data / "layers").iterdir()) == []
    assert list((rl.data / "content/blobs/sha256").iterdir()) == []
    assert list((rl.data / "content/partial").iterdir()) == []
    assert [path.name for path in (rl.data / "images").iterdir()] == [".lock"]
    nothing_left(rl)
    users.wipe(rl.user)


@pytest.fixture
def fuse(busybox_archive: Path, tmp_path: Path) -> Iterator[Rl]:
    if not os.path.exists("/dev/fuse"):
        pytest.skip("no /dev/fuse")
    rl = make_lane("fuse", tmp_path)
    rl.ok("load", "-q", "-i", busybox_archive)
    yield rl
    rl.clean()
    users.wipe(rl.user)


def test_fuse_overlayfs(fuse: Rl) -> None:
    """It dies with the monitor, and what was written stays; killed itself, the record stays true."""
    for number in range(ROUNDS // 5):
        container = fuse.ok("run", "-d", "--name", "victim", "busybox", "sh", "-c", "echo x > /x; sleep 1000")
        assert processes_of(fuse, "fuse-overlayfs -f")
        eventually(lambda: fuse("exec", "victim", "cat", "/x").stdout == "x\n")
        state = records(fuse)[container]
        kill(int(str(state["monitor_pid"])))
        eventually(lambda: gone(state["pid"]) and not processes_of(fuse, "fuse-overlayfs -f"), 10, 0.01)  # noqa: B023
        if number == 0:
            fuse.ok("start", "victim")
            assert fuse.ok("exec", "victim", "cat", "/x") == "x"
            kill(*processes_of(fuse, "fuse-overlayfs -f"))
            assert fuse.ok("inspect", "--format", "{{.State.Status}}", "victim") == "running"
            fuse.ok("stop", "-t", "0", "victim")
        fuse.ok("rm", "victim")
    consistent(fuse)


def test_pasta_is_killed(rl: Rl) -> None:
    """The container stays, without a network; its end is recorded as ever."""
    container = rl.ok("run", "-d", "--network=pasta", "busybox", "sleep", "1000")
    kill(*processes_of(rl, "--config-net"))
    eventually(lambda: not processes_of(rl, "--config-net"))
    assert rl.ok("inspect", "--format", "{{.State.Status}}", container) == "running"
    assert rl.ok("exec", container, "echo", "works") == "works"
    rl.ok("stop", "-t", "0", container)
    assert rl.ok("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", container) == "exited 137"
    rl.ok("start", container)
    assert processes_of(rl, "--config-net")
    consistent(rl)


def test_an_unpacking_pull_is_killed(registry: Registry, tmp_path: Path) -> None:
    """The image is there and whole, or not there; the next pull gets it."""
    layers = []
    for number in range(4):
        path = tmp_path / f"layer{number}.tar"
        with tarfile.open(path, "w") as tar:
            for index in range(400):
                member = tarfile.TarInfo(f"d{number}/f{index}")
                data = random.Random(index).randbytes(6000)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        layers.append(path)
    base = images.busybox_layer(tmp_path / "base.tar")
    archive = images.archive_of(tmp_path / "many.tar", [base, *layers], {"Cmd": ["sh"]}, "many:latest")
    registry.push_archive(archive, "many:latest")
    image = f"{registry.host}/many"
    rl = Rl(unique_user("rltest-killed"))
    seed = random.Random(3)
    for _ in range(ROUNDS):
        process = quiet(rl, "pull", "-q", image)
        time.sleep(seed.uniform(0.02, 0.6))
        kill(*processes_of(rl, "rl pull"), process.pid)
        process.wait()
        listed = rl.ok("images", "-q")
        if listed:
            count = rl.ok("run", "--rm", "--network=none", image, "sh", "-c", "cat /d[0-9]/f* | wc -c")
            assert count == str(4 * 400 * 6000)
            rl.ok("rmi", image)
    rl.ok("pull", "-q", image)
    assert rl.ok("run", "--rm", "--network=none", image, "sh", "-c", "cat /d[0-9]/f* | wc -c") == str(4 * 400 * 6000)
    rl.ok("rmi", image)
    assert list((rl.data / "layers").iterdir()) == []
    assert list((rl.data / "content/blobs/sha256").iterdir()) == []
    users.wipe(rl.user)


@pytest.mark.parametrize("network", ["none", "pasta"])
def test_parallel_runs(rl: Rl, network: str) -> None:
    """32 × `rl run --rm` at once: all succeed, each with its own output, none leaves anything."""
    running = [
        rl.user.popen("rl", "run", "--rm", f"--network={network}", "busybox", "sh", "-c", f"echo {number}",
                      stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for number in range(32)
    ]
    for number, process in enumerate(running):
        out, error = process.communicate(timeout=120)
        assert (process.returncode, out.decode()) == (0, f"{number}\n"), error.decode()
    nothing_left(rl)
