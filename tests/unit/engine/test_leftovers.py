"""What killed processes left is found and removed; what living ones hold is not touched."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest

from rl.config.paths import Paths
from rl.engine import containers, leftovers, naming
from rl.errors import NoSuchContainerError

A, B, C = ("a" * 64, "b" * 64, "c" * 64)
DEAD = "4194305"  # above the highest pid_max


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    found = Paths(*(str(tmp_path / name) for name in ("data", "run", "config", "cache")))
    found.ensure()
    return found


def everything(paths: Paths) -> list[str]:
    """Files and directories of the state, without those that are always there."""
    return sorted(
        os.path.relpath(os.path.join(directory, name), os.path.dirname(paths.data))
        for base in (paths.data, paths.run)
        for directory, directories, files in os.walk(base)
        for name in files + directories
        if name not in ("content", "blobs", "sha256", "layers", "images", "containers", "names", "volumes", "trash", "secrets", ".lock",
                        "runtime", "userns.lock")
    )


def leave(paths: Paths, pid: str) -> list[str]:
    """Files whose names end with *pid*."""
    for name in (f"netns.{pid}", f"slirp.{pid}"):
        Path(paths.run, name).touch()
    return [f"run/netns.{pid}", f"run/slirp.{pid}"]


def container(paths: Paths, container_id: str, state: dict[str, object], **config: object) -> None:
    os.mkdir(paths.container(container_id))
    whole = {"id": container_id, "name": "one", "mounts": [], "layers": [], "options": {}, **config}
    Path(paths.container(container_id), "config.json").write_text(json.dumps(whole))
    Path(paths.container(container_id), "state.json").write_text(json.dumps({"pid": 0, "exit_code": 0, **state}))
    naming.take_name(paths, "one", container_id)


def hold(paths: Paths, container_id: str) -> int:
    os.makedirs(paths.container_run(container_id), exist_ok=True)
    fd = os.open(f"{paths.container_run(container_id)}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def test_a_sweep(paths: Paths) -> None:
    leave(paths, DEAD)
    kept = leave(paths, str(os.getpid()))
    os.close(hold(paths, A))
    Path(paths.container_run(A), "attach").touch()
    held = hold(paths, B)
    os.makedirs(f"{paths.run}/runtime/{A}/root")
    os.mkdir(f"{paths.data}/.probe-overlay-{DEAD}")
    os.makedirs(f"{paths.layers}/.staging-1-ab/fs")
    Path(paths.images, ".lock").touch()
    Path(paths.images, ".17").touch()
    os.mkdir(f"{paths.containers}/.{C}.new")
    os.symlink(f"../containers/{C}", f"{paths.names}/gone")
    containers.tidy(paths, set())
    assert everything(paths) == sorted([*kept, f"run/containers/{B}", f"run/containers/{B}/lock"])
    os.close(held)
    leftovers.sweep(paths)
    assert everything(paths) == sorted(kept)


def test_tidy_of_a_tidy_state_does_nothing(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    container(paths, A, {"status": "running"})
    held = hold(paths, A)
    monkeypatch.setattr(leftovers, "sweep", lambda _: pytest.fail("swept"))
    containers.tidy(paths, {A})
    os.close(held)


@pytest.mark.parametrize(("state", "config"), [
    ({"status": "running", "pid": int(DEAD), "pid_start": 1}, {"remove": True}),
], ids=["rm"])
def test_a_container_that_goes_with_its_monitor(paths: Paths, state: dict[str, object], config: dict[str, object]) -> None:
    os.makedirs(f"{paths.volumes}/anonymous/_data")
    os.makedirs(f"{paths.volumes}/named/_data")
    mounts = [{"type": "volume", "source": name, "destination": "/v", "anonymous": name == "anonymous"}
              for name in ("anonymous", "named")]
    container(paths, A, state, mounts=mounts, **config)
    held = hold(paths, A)
    os.pwrite(held, str(os.getpid()).encode(), 0)
    assert containers.read_state(paths, A)["status"] == state["status"]
    os.close(held)
    with pytest.raises(NoSuchContainerError, match="its monitor was killed"):
        containers.read_state(paths, A)
    assert [name for name in everything(paths) if name.startswith("data/")] == ["data/volumes/named", "data/volumes/named/_data"]


def test_a_created_container_stays(paths: Paths) -> None:
    container(paths, A, {"status": "created"}, remove=True)
    assert containers.read_state(paths, A)["status"] == "created"


def test_a_name_of_another_is_not_released(paths: Paths) -> None:
    container(paths, A, {"status": "created"})
    naming.release_name(paths, "one", B)
    naming.release_name(paths, "none", A)
    assert os.listdir(paths.names) == ["one"]
    naming.release_name(paths, "one", A)
    assert os.listdir(paths.names) == []
