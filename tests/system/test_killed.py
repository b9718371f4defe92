"""SIGKILL at random moments, 50 rounds; after it every command works, nothing is left behind or lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from support import images, users
from support.registry import Registry
from system.conftest import Rl, eventually, records, unique_user

ROUNDS = 50


def processes_of(rl: Rl, word: str) -> list[int]:
    return [int(line.split()[0]) for line in rl.user.processes() if word in line]


def consistent(rl: Rl) -> None:
    """Every command answers; records are true; no process, staging directory or run directory is left."""
    rl.ok("ps", "-a")
    rl.ok("images")
    assert rl.ok("run", "--rm", "busybox", "echo", "works") == "works"
    for container in rl.containers():
        rl.ok("inspect", container)
    rl.clean()
    assert rl.containers() == []
    assert records(rl) == {}
    eventually(lambda: not list((rl.run_dir / "containers").iterdir()))
    assert list((rl.data / "names").iterdir()) == []
    assert list((rl.data / "trash").iterdir()) == []
    eventually(lambda: not [line for line in rl.user.processes() if "rl" in line or "pasta" in line or "sleep" in line])


def test_the_command_line_is_killed(rl: Rl) -> None:
    """At any moment of `rl run -d`: the container runs and is listed, or there is none."""
    seed = random.Random(1)
    for number in range(ROUNDS):
        process = rl.user.popen("rl", "run", "-d", "--name", f"c{number}", "busybox", "sleep", "1000",
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(seed.uniform(0, 0.15))
        process.kill()
        process.wait()
        time.sleep(0.02)
        assert rl("ps", "-a").returncode == 0
    eventually(lambda: all(state["status"] in ("running", "created", "exited") for state in records(rl).values()))
    consistent(rl)


def test_the_monitor_is_killed(rl: Rl) -> None:
    """Its container ends with it; the record says so; the name is free again after rm."""
    seed = random.Random(2)
    for _ in range(ROUNDS):
        container = rl.ok("run", "-d", "--name", "victim", "busybox", "sleep", "1000")
        time.sleep(seed.uniform(0, 0.1))
        state = records(rl)[container]
        os.kill(int(str(state["monitor_pid"])), signal.SIGKILL)
        eventually(lambda: not Path(f"/proc/{state['pid']}").exists(), 10, 0.01)  # noqa: B023
        assert rl.ok("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "victim") == "exited 137"
        assert rl.ok("ps", "-q") == ""
        rl.ok("rm", "victim")
    consistent(rl)


def test_an_unpacking_pull_is_killed(registry: Registry, tmp_path: Path) -> None:
    """The image is there and whole, or not there; the next pull gets it."""
    layers = []
    for number in range(4):
        import io
        import tarfile

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
        process = rl.user.popen("rl", "pull", "-q", image, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(seed.uniform(0.02, 0.6))
        for pid in (*processes_of(rl, "rl pull"), process.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait()
        listed = rl.ok("images", "-q")
        if listed:
            count = rl.ok("run", "--rm", "--network=none", image, "sh", "-c", "cat /d[0-9]/f* | wc -c")
            assert count == str(4 * 400 * 6000)
            rl.ok("rmi", image)
    rl.ok("pull", "-q", image)
    assert rl.ok("run", "--rm", "--network=none", image, "sh", "-c", "cat /d[0-9]/f* | wc -c") == str(4 * 400 * 6000)
    rl.ok("rmi", image)
    left = [path for path in (rl.data / "layers").iterdir() if not path.name.endswith(".lock")]
    assert left == [], left
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
    assert rl.containers() == []
    eventually(lambda: not list((rl.run_dir / "containers").iterdir()))
