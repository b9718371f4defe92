"""Commands at the same time: one order or the other is the result, never a mixture, and nothing is left."""

from __future__ import annotations

import random
import subprocess
import time
from pathlib import Path

from support import users
from support.registry import Registry
from system.conftest import Rl, eventually, records, unique_user

Result = tuple[int, str, str]


def start(rl: Rl, *words: str) -> subprocess.Popen[bytes]:
    return rl.user.popen("rl", *rl.flags, *words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def ended(process: subprocess.Popen[bytes]) -> Result:
    out, error = process.communicate(timeout=120)
    return process.returncode, out.decode().strip(), error.decode().strip()


def together(rl: Rl, *commands: list[str]) -> list[Result]:
    return [ended(process) for process in [start(rl, *command) for command in commands]]


def clean(rl: Rl) -> None:
    rl.clean()
    assert records(rl) == {}
    for directory in ("names", "volumes", "trash"):
        assert list((rl.data / directory).iterdir()) == []
    eventually(lambda: not [line for line in rl.user.processes() if any(w in line for w in ("rl", "pasta", "sleep"))])
    eventually(lambda: not list((rl.run_dir / "containers").iterdir()))


def test_starts_of_one_container(rl: Rl) -> None:
    """Podman: starting what runs is no error. It is started once."""
    for _ in range(10):
        rl.ok("create", "--name", "one", "busybox", "sleep", "1000")
        results = together(rl, *[["start", "one"]] * 3)
        assert [result[0] for result in results] == [0, 0, 0], results
        assert len([line for line in rl.user.processes() if "sleep 1000" in line]) == 1
        rl.ok("rm", "-f", "-t", "0", "one")
    clean(rl)


def test_start_of_a_short_container(rl: Rl) -> None:
    rl.ok("create", "--name", "one", "busybox", "true")
    for _ in range(10):
        results = together(rl, ["start", "one"], ["start", "one"])
        assert [result[0] for result in results] == [0, 0], results
    rl.ok("wait", "one")
    clean(rl)


def test_rm_and_start(rl: Rl) -> None:
    """Either it runs and rm is refused, or it is gone."""
    seed = random.Random(1)
    for _ in range(30):
        rl.ok("create", "--name", "one", "-v", "/v", "busybox", "sleep", "1000")
        first = start(rl, "start", "one")
        time.sleep(seed.uniform(0, 0.06))
        second = start(rl, "rm", "-v", "one")
        started, removed = ended(first), ended(second)
        if removed[0] == 0:
            assert started[0] == 125, (started, removed)
            assert rl.containers() == []
        else:
            assert started[0] == 0, (started, removed)
            assert rl.ok("ps", "--format", "{{.Names}} {{.State}}") == "one running"
            rl.ok("rm", "-f", "-v", "-t", "0", "one")
    clean(rl)


def test_forced_rm_and_start(rl: Rl) -> None:
    """rm --force always succeeds; start did, for a moment, or found nothing."""
    seed = random.Random(2)
    for _ in range(30):
        rl.ok("create", "--name", "one", "-v", "/v", "busybox", "sleep", "1000")
        first = start(rl, "start", "one")
        time.sleep(seed.uniform(0, 0.1))
        removed = ended(start(rl, "rm", "-f", "-v", "-t", "0", "one"))
        started = ended(first)
        assert removed[0] == 0, (started, removed)
        assert rl.containers() == [], (started, removed)
    clean(rl)


def test_init_and_start(rl: Rl) -> None:
    """It runs in the end, whoever was first."""
    for _ in range(6):
        rl.ok("create", "--name", "one", "--network=none", "busybox", "sleep", "1000")
        results = together(rl, ["init", "one"], ["start", "one"])
        assert results[1][0] == 0, results
        assert rl.ok("ps", "--format", "{{.Names}} {{.State}}") == "one running", results
        rl.ok("rm", "-f", "-t", "0", "one")
    clean(rl)


def test_restart_and_stop(rl: Rl) -> None:
    """One after the other: it has stopped, or runs again; nobody waits for the other's end."""
    rl.ok("create", "--name", "one", "--network=none", "busybox", "sleep", "1000")
    for turn in (1, -1) * 5:
        rl.ok("start", "one")
        began = time.monotonic()
        commands = [["restart", "-t", "0", "one"], ["stop", "-t", "0", "one"]]
        restarted, stopped = together(rl, *commands[::turn])[::turn]
        assert time.monotonic() - began < 20
        assert stopped[0] == 0, (restarted, stopped)
        assert restarted[0] == 0 or "stopped meanwhile" in restarted[2], (restarted, stopped)
    rl.ok("rm", "-f", "-t", "0", "one")
    clean(rl)


def test_copies_beside_runs(rl: Rl) -> None:
    """cp, export and commit find the container's files in whichever state they meet it."""
    rl.ok("run", "-d", "--name", "one", "--restart=always", "--network=none", "busybox", "sh", "-c", "sleep 0.02; exit 1")
    (rl.user.home / "f").write_text("f")
    for _ in range(6):
        results = together(
            rl, ["restart", "-t", "0", "one"], ["cp", f"{rl.user.home}/f", "one:/f"],
            ["export", "-o", f"{rl.user.home}/tar", "one"], ["commit", "-q", "one"],
        )
        assert [result[0] for result in results] == [0] * 4, results
        assert (rl.user.home / "tar").stat().st_size > 1 << 20
    rl.ok("rm", "-f", "-t", "0", "one")
    rl.ok("image", "prune", "-f")
    clean(rl)


def test_one_name(rl: Rl) -> None:
    """Ten times at once: one gets it, the others are told, and leave nothing."""
    for _ in range(3):
        results = together(rl, *[["run", "-d", "--name", "one", "-v", "/v", "busybox", "sleep", "1000"]] * 10)
        codes = sorted(result[0] for result in results)
        assert codes == [0] + [125] * 9, results
        assert all("already in use" in result[2] for result in results if result[0])
        assert rl.ok("ps", "-a", "--format", "{{.Names}} {{.State}}") == "one running"
        assert len(list((rl.run_dir / "containers").iterdir())) == 1
        rl.ok("rm", "-f", "-v", "-t", "0", "one")
    clean(rl)


def test_replace(rl: Rl) -> None:
    """At the end one has the name and runs; the others are gone, or say who was faster."""
    for _ in range(4):
        results = together(rl, *[["run", "-d", "--replace", "--stop-timeout=0", "--name", "one", "busybox", "sleep", "1000"]] * 6)
        assert rl.ok("ps", "-a", "--format", "{{.Names}} {{.State}}") == "one running", results
        assert all(code == 0 or error for code, _, error in results)
        assert 0 in [result[0] for result in results]
        assert "Traceback" not in str(results)
    clean(rl)


def test_stop_and_exit(rl: Rl) -> None:
    """A container that ends by itself just then is stopped too; its exit code is its own."""
    for number in range(20):
        rl.ok("run", "-d", "--name", "one", "busybox", "sh", "-c", f"sleep 0.0{number % 10}; exit 7")
        result = ended(start(rl, "stop", "one"))
        assert result[0] == 0, result
        shown = rl.ok("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "one")
        assert shown in ("exited 7", "exited 137", "exited 143"), shown
        rl.ok("rm", "one")
    clean(rl)


def test_rmi_and_run(busybox_archive: Path) -> None:
    """The container runs and keeps its layers, or the image was gone before."""
    rl = Rl(unique_user("rltest-killed"))
    rl.ok("load", "-q", "-i", busybox_archive)
    image_id = rl.ok("images", "-q", "--no-trunc")
    seed = random.Random(3)
    for number in range(15):
        first = start(rl, "rmi", "-f" if number % 2 else "-i", "busybox")
        time.sleep(seed.uniform(0, 0.03))
        ran = ended(start(rl, "run", "--pull=never", "--network=none", "--name", "one", "busybox", "echo", "works"))
        ended(first)
        assert ran[:2] == (0, "works") or (ran[0] == 125 and "busybox" in ran[2]), ran
        rl("rm", "-f", "-i", "one")
        rl.ok("load", "-q", "-i", busybox_archive)
        assert rl.ok("images", "-q", "--no-trunc") == image_id
    clean(rl)
    rl.ok("rmi", "busybox")
    assert list((rl.data / "layers").iterdir()) == []
    users.wipe(rl.user)


def test_parallel_pulls(registry: Registry) -> None:
    """Of one image: all get it, it is stored once."""
    rl = Rl(unique_user("rltest-killed"))
    image = f"{registry.host}/busybox"
    for _ in range(4):
        results = together(rl, *[["pull", "-q", image]] * 5)
        assert [result[0] for result in results] == [0] * 5, results
        assert len({result[1] for result in results}) == 1
        assert rl.ok("run", "--rm", "--network=none", image, "echo", "works") == "works"
        rl.ok("rmi", image)
        assert list((rl.data / "layers").iterdir()) == []
        assert list((rl.data / "content/blobs/sha256").iterdir()) == []
    users.wipe(rl.user)


def test_many(rl: Rl) -> None:
    """100 in the background, ten at a time; then all are stopped and removed by one command each."""
    for _ in range(10):
        results = together(rl, *[["run", "-d", "--network=none", "busybox", "sleep", "1000"]] * 10)
        assert [result[0] for result in results] == [0] * 10, results
    assert len(rl.ok("ps", "-q").split()) == 100
    assert len(rl.ok("stop", "-a", "-t", "0").split()) == 100
    assert rl.ok("ps", "-q") == ""
    assert len(rl.ok("rm", "-a", "-f").split()) == 100
    clean(rl)
