"""Which volumes there are and who uses them: names, prefixes, marks, half-made ones."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from rl.config.jsonio import write_json
from rl.config.paths import Paths
from rl.engine import volumes
from rl.engine.context import Engine
from rl.engine.naming import hold_staging
from rl.engine.volume import records
from rl.engine.volume.rm import forget_anonymous, rm
from rl.errors import AmbiguousNameError, CorruptRecordError, NoSuchVolumeError, RlError, VolumeInUseError

ID = "ab" * 32


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = Paths(*(str(tmp_path / name) for name in ("data", "run", "config", "cache")))
    made.ensure()
    return made


def container(paths: Paths, identity: str, *names: str, **more: object) -> dict[str, object]:
    config = {"id": identity, "name": identity[:8], "mounts": [
        {"type": "volume", "source": name, "destination": f"/{name}", **more} for name in names]}  # fmt: skip
    os.makedirs(paths.container(identity))
    write_json(f"{paths.container(identity)}/config.json", config)
    return config


def test_finding(paths: Paths) -> None:
    for name in ("data", "data2", "other"):
        assert records.make(paths, name, records.fresh())
    assert records.names(paths) == ["data", "data2", "other"]
    assert [records.find(paths, text) for text in ("data", "data2", "o")] == ["data", "data2", "other"]
    for text, error in (("dat", AmbiguousNameError), ("", NoSuchVolumeError), ("nosuch", NoSuchVolumeError), (".", NoSuchVolumeError),
                        ("../volumes", NoSuchVolumeError)):
        with pytest.raises(error):
            records.find(paths, text)
    os.unlink(f"{paths.volumes}/other/volume.json")
    with pytest.raises(CorruptRecordError):
        records.read(paths, "other")


def test_one_of_many_makes_it(paths: Paths) -> None:
    fork = multiprocessing.get_context("fork")
    barrier = fork.Barrier(6)

    def make() -> None:
        barrier.wait()
        os._exit(0 if records.make(paths, "v", records.fresh()) else 1)

    workers = [fork.Process(target=make) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(worker.exitcode for worker in workers) == [0, 1, 1, 1, 1, 1]
    assert os.listdir(paths.volumes) == ["v"], "the losers leave nothing"


def test_a_failure_leaves_nothing(paths: Paths) -> None:
    def fail(data: str) -> None:
        raise RlError("no")

    with pytest.raises(RlError):
        records.make(paths, "v", records.fresh(), fail)
    assert os.listdir(paths.volumes) == []


def test_the_sweep_takes_what_nobody_holds(paths: Paths) -> None:
    os.mkdir(f"{paths.volumes}/.1-dead.new")
    held = hold_staging(f"{paths.volumes}/.2-alive.new")
    records.sweep(paths)
    os.close(held)
    assert os.listdir(paths.volumes) == [".2-alive.new"]


def test_users_are_told_by_the_records(paths: Paths) -> None:
    for name in ("v", "vv"):
        records.make(paths, name, records.fresh())
    container(paths, ID, "vv")
    assert (records.users_of(paths, "vv"), records.users_of(paths, "v")) == ([ID], [])
    assert records.users(paths) == {"vv": [ID]}
    Path(paths.container(ID), "config.json").write_text('{"mounts": [ "vv"')
    assert records.users_of(paths, "vv") == [ID], "a damaged record may mean it"
    results = dict(rm(Engine(paths), ["v", "vv", "nosuch"]))
    assert results["v"] is None and isinstance(results["vv"], VolumeInUseError) and isinstance(results["nosuch"], NoSuchVolumeError)
    assert records.names(paths) == ["vv"]


def test_anonymous_volumes_go_with_the_last(paths: Paths) -> None:
    other = "cd" * 32
    first = container(paths, ID, "anon", anonymous=True)
    volumes.claim(paths, first, own=True)  # type: ignore[arg-type]
    assert records.read(paths, "anon")["Anonymous"] is True and not records.has_mark(paths, "anon", records.SHARED)
    second = container(paths, other, "anon", anonymous=True, borrowed=True)
    assert volumes.claim(paths, second, own=False) == []  # type: ignore[arg-type]
    assert records.has_mark(paths, "anon", records.SHARED)
    forget_anonymous(paths, first)  # type: ignore[arg-type]
    assert records.names(paths) == ["anon"]
    os.rename(paths.container(ID), f"{paths.trash}/x")
    forget_anonymous(paths, second)  # type: ignore[arg-type]
    assert records.names(paths) == []
    with pytest.raises(NoSuchVolumeError):
        volumes.claim(paths, second, own=False)  # type: ignore[arg-type]
