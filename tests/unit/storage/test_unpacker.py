"""The worker processes of a pull: side by side, interrupted, killed, damaged."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
from archives import END, Store, directory, member

from rl.errors import RlError, VerificationError
from rl.storage import driver, layers
from rl.storage.unpack import Unpacker


def make(store: Store, count: int, size: int = 20_000) -> list[tuple[str, str]]:
    return [store.blob(b"".join(directory(f"d{n}") + member(f"d{n}/f{m}", os.urandom(size)) for m in range(5)) + END)
            for n in range(count)]


def complete(store: Store, blobs: list[tuple[str, str]]) -> bool:
    key = driver.default_key(store.paths)
    return all(layers.has(store.paths, diff_id, key) for _, diff_id in blobs)


def test_layers_in_parallel(store: Store) -> None:
    blobs = make(store, 9)
    with Unpacker(store.paths, workers=3) as unpacker:
        for path, diff_id in blobs:
            unpacker.submit(path, diff_id, "application/vnd.oci.image.layer.v1.tar+gzip")
            unpacker.submit(path, diff_id)  # an image may name one layer twice
        results = unpacker.results()
    assert [result["diff_id"] for result in results] == [diff_id for _, diff_id in blobs]
    assert all(result["entries"] == 10 and result["size"] == 100_000 for result in results)
    assert complete(store, blobs)
    assert store.leftovers() == sorted(diff_id[7:] for _, diff_id in blobs)
    with Unpacker(store.paths) as unpacker:
        for path, diff_id in blobs:
            os.unlink(path)  # what exists is not read
            unpacker.submit(path, diff_id)
        assert [result["diff_id"] for result in unpacker.results()] == [diff_id for _, diff_id in blobs]


def test_one_bad_layer_does_not_cost_the_others(store: Store) -> None:
    blobs = make(store, 4)
    with open(blobs[2][0], "r+b") as file:
        file.truncate(os.path.getsize(blobs[2][0]) - 5000)
    with Unpacker(store.paths) as unpacker:
        for path, diff_id in blobs:
            unpacker.submit(path, diff_id)
        with pytest.raises(VerificationError):
            unpacker.results()
    good = blobs[:2] + blobs[3:]
    assert complete(store, good)
    assert store.leftovers() == sorted(diff_id[7:] for _, diff_id in good)


def test_left_without_results(store: Store) -> None:
    with Unpacker(store.paths) as unpacker:
        for path, diff_id in make(store, 3):
            unpacker.submit(path, diff_id)
    assert store.leftovers() == []


def test_an_error_in_the_caller_leaves_nothing(store: Store) -> None:
    blobs = make(store, 3, 2_000_000)
    with pytest.raises(KeyboardInterrupt), Unpacker(store.paths) as unpacker:
        for path, diff_id in blobs:
            unpacker.submit(path, diff_id)
        time.sleep(0.1)
        raise KeyboardInterrupt
    assert store.leftovers() == []


def test_progress(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from rl.storage import extract

    monkeypatch.setattr(extract, "_PROGRESS_SECONDS", 0.0)  # else a fast disk is done before the first report
    path, diff_id = store.blob(b"".join(member(f"f{n}", os.urandom(300_000)) for n in range(200)) + END)
    seen: list[tuple[str, int, int]] = []
    with Unpacker(store.paths, on_progress=lambda *report: seen.append(report)) as unpacker:
        unpacker.submit(path, diff_id)
        unpacker.results()
    assert seen and all(report[0] == diff_id and 0 < report[1] <= report[2] == os.path.getsize(path) for report in seen)
    assert [report[1] for report in seen] == sorted(report[1] for report in seen)


def test_a_killed_worker_is_an_error(store: Store) -> None:
    blobs = make(store, 2, 3_000_000)
    with Unpacker(store.paths, workers=1) as unpacker:
        for path, diff_id in blobs:
            unpacker.submit(path, diff_id)
        for pid in list(unpacker._workers.values()):
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(RlError, match="ended"):
            unpacker.results()
    with Unpacker(store.paths) as unpacker:
        for path, diff_id in blobs:
            unpacker.submit(path, diff_id)
        unpacker.results()
    assert store.leftovers() == sorted(diff_id[7:] for _, diff_id in blobs)


def test_two_processes_unpack_the_same_layers(store: Store) -> None:
    blobs = make(store, 4, 200_000)
    children = []
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                with Unpacker(store.paths) as unpacker:
                    for path, diff_id in blobs:
                        unpacker.submit(path, diff_id)
                    code = 0 if len(unpacker.results()) == 4 else 2
            finally:
                os._exit(code)
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0, 0]
    assert complete(store, blobs) and store.leftovers() == sorted(diff_id[7:] for _, diff_id in blobs)


def test_killed_at_random_moments(store: Store) -> None:
    """SIGKILL to the puller: what is there is whole, the rest is gone after the next unpack, no process stays."""
    blobs = make(store, 3, 400_000)
    rounds = 12
    for number in range(rounds):
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, 0)
            try:
                with Unpacker(store.paths) as unpacker:
                    for path, diff_id in blobs:
                        unpacker.submit(path, diff_id)
                    unpacker.results()
            finally:
                os._exit(0)
        time.sleep(random.uniform(0, 0.15))
        if number % 2:
            os.kill(pid, signal.SIGKILL)
        else:
            try:
                os.killpg(pid, signal.SIGKILL)
            except ProcessLookupError:
                os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        for _, diff_id in blobs:
            if layers.has(store.paths, diff_id, driver.default_key(store.paths)):
                got = store.listing(diff_id)
                assert sum(entry["kind"] == "file" and entry["size"] == 400_000 for entry in got.values()) == 5
                assert layers.info(store.paths, diff_id)["entries"] == 10
    with Unpacker(store.paths) as unpacker:
        for path, diff_id in blobs:
            unpacker.submit(path, diff_id)
        unpacker.results()
    deadline = time.monotonic() + 5
    expected = sorted(diff_id[7:] for _, diff_id in blobs)
    while store.leftovers() != expected and time.monotonic() < deadline:
        time.sleep(0.05)  # a worker whose parent was killed is still cleaning up
    assert store.leftovers() == expected


def test_a_layer_that_lost_its_tree_is_made_again(store: Store) -> None:
    path, diff_id = store.blob(member("f", b"x") + END)
    os.makedirs(f"{store.paths.layers}/{diff_id[7:]}")
    with Unpacker(store.paths) as unpacker:
        unpacker.submit(path, diff_id)
        unpacker.results()
    assert store.listing(diff_id)["f"]["content"] == "x"


def test_many_layers_in_the_queue(store: Store) -> None:
    blobs = [store.blob(member(f"f{n}", b"") + END) for n in range(200)]
    with Unpacker(store.paths, workers=1) as unpacker:
        for path, diff_id in blobs:
            unpacker.submit(path, diff_id)
        assert len(unpacker.results()) == 200


def test_progress_that_nobody_reads_holds_nothing_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from rl.storage import extract

    monkeypatch.setattr(extract, "_PROGRESS_SECONDS", 0.0)
    path, diff_id = store.blob(b"".join(member(f"f{n}", os.urandom(100_000)) for n in range(300)) + END, "plain")
    other, other_id = store.blob(member("x", b"") + END)
    with Unpacker(store.paths, workers=1, on_progress=lambda *report: None) as unpacker:
        unpacker.submit(path, diff_id)
        unpacker.submit(other, other_id)
        staging = f"{store.paths.layers}"
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:  # both are done though we did not read one report
            if any(os.path.exists(f"{staging}/{name}/{other_id[7:]}/layer.json") for name in os.listdir(staging)):
                break
            time.sleep(0.02)
        else:
            raise AssertionError("the second layer waits")
        assert len(unpacker.results()) == 2
