"""A disk that is full, or read-only, while containers run, end and are removed: the truth is told, space comes back.

The state is on a small tmpfs in a mount namespace of the test's own; nothing of the host is touched.
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import users
from system.conftest import eventually, unique_user


class Small:
    """`rl` of a user with its state on 32 MB."""

    def __init__(self, user: users.User) -> None:
        self.user = user
        self.place = user.home / "small"
        self.place.mkdir(exist_ok=True)
        self.holder = subprocess.Popen(["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; exec sleep 1000"],
                                       stdout=subprocess.PIPE)
        assert self.holder.stdout and self.holder.stdout.readline()
        self.inside("mount", "-t", "tmpfs", "-o", f"size=32m,mode=755,uid={user.uid},gid={user.gid}", "tmpfs", str(self.place))

    def inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["nsenter", "--mount", f"--target={self.holder.pid}", *command], capture_output=True, text=True,
                              env=self.user.env(), cwd="/", timeout=60)

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.inside(*self.user.argv(["rl", "--root", str(self.place / "rl"), *words]))

    def ok(self, *words: str) -> str:
        done = self(*words)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout.strip()

    def refused(self, why: int, *words: str) -> None:
        done = self(*words)
        assert done.returncode == 125 and os.strerror(why) in done.stderr, (words, done)
        assert "Traceback" not in done.stderr

    def fill(self) -> None:
        self.inside("dd", "if=/dev/zero", f"of={self.place}/fill", "bs=4k")

    def free(self) -> None:
        self.inside("rm", "-f", f"{self.place}/fill")

    def close(self) -> None:
        self("rm", "-a", "-f", "-t", "0")
        self.holder.kill()
        self.holder.wait()


@pytest.fixture
def small(busybox_archive: Path) -> Iterator[Small]:
    if os.getuid():
        pytest.skip("mounts a small file system: needs root")
    user = unique_user("rltest-full")
    rl = Small(user)
    rl.ok("load", "-q", "-i", str(busybox_archive))
    yield rl
    rl.close()
    users.wipe(user)


def begin(rl: Small) -> None:
    """One that writes all the time, one with --rm, one that ends by itself, one that was never started."""
    rl.ok("run", "-d", "--name=writes", "--network=none", "busybox", "sh", "-c", "while true; do echo line; usleep 9000; done")
    rl.ok("run", "-d", "--name=rm", "--rm", "--network=none", "-v", "/v", "busybox", "sleep", "1000")
    rl.ok("run", "-d", "--name=ends", "--network=none", "busybox", "sh", "-c",
          "while [ ! -e /dev/shm/end ]; do usleep 9000; done; exit 5")
    rl.ok("create", "--name=created", "--network=none", "busybox", "true")


def state(rl: Small, name: str) -> str:
    return rl.ok("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", name)


def test_full(small: Small) -> None:
    begin(small)
    small.fill()
    assert small.ok("exec", "writes", "echo", "works") == "works"
    assert small.ok("logs", "--tail", "1", "writes") == "line"
    for words in (["run", "--rm", "--network=none", "busybox", "true"], ["run", "-d", "--network=none", "busybox", "true"],
                  ["start", "created"]):
        small.refused(errno.ENOSPC, *words)
    assert sorted(small.ok("ps", "-a", "--format", "{{.Names}} {{.State}}").split("\n")) == [
        "created created", "ends running", "rm running", "writes running"]
    small.ok("stop", "-t", "0", "writes", "rm")
    small.ok("exec", "ends", "touch", "/dev/shm/end")
    eventually(lambda: state(small, "ends") == "exited 5")
    assert state(small, "writes") == "exited 137"
    assert small("inspect", "rm").returncode == 125
    small.ok("rm", "writes", "ends", "created")
    assert small.ok("ps", "-a", "-q") == ""
    small.ok("rmi", "busybox")
    small.free()
    assert small.inside("find", f"{small.place}/rl/containers", f"{small.place}/rl/names", f"{small.place}/rl/trash",
                        f"{small.place}/rl/volumes", f"{small.place}/rl/layers", "-mindepth", "1").stdout == ""


def test_full_and_killed(small: Small) -> None:
    """The correction of the record cannot be written: it is told all the same, and written later."""
    begin(small)
    monitor = small.ok("inspect", "--format", "{{.State.ConmonPid}}", "writes")
    of_rm = small.ok("inspect", "--format", "{{.State.ConmonPid}}", "rm")
    small.fill()
    for pid in (monitor, of_rm):
        os.kill(int(pid), 9)
    eventually(lambda: state(small, "writes") == "exited 137")
    assert small("inspect", "rm").returncode == 125
    small.free()
    assert state(small, "writes") == "exited 137"
    small.ok("start", "writes")
    assert state(small, "writes") == "running 0"


def test_read_only(small: Small) -> None:
    begin(small)
    small.inside("mount", "-o", "remount,bind,ro", str(small.place))
    assert small.ok("exec", "writes", "echo", "works") == "works"
    assert "created created" in small.ok("ps", "-a", "--format", "{{.Names}} {{.State}}")
    for words in (["run", "--rm", "--network=none", "busybox", "true"], ["start", "created"], ["rm", "created"],
                  ["tag", "busybox", "other"]):
        small.refused(errno.EROFS, *words)
    small.ok("stop", "-t", "0", "writes")
    assert state(small, "writes") == "exited 137"
    small.inside("mount", "-o", "remount,bind,rw", str(small.place))
    small.ok("rm", "writes", "created")


def test_builds(small: Small) -> None:
    """Whatever step meets the full disk, the build says so; then there is nothing of it but what the cache knows."""
    context = small.user.home / "full-context"
    context.mkdir(exist_ok=True)
    (context / "Containerfile").write_text("FROM busybox\nCOPY data /data\nRUN echo run > /run-file && cp /data /again\nLABEL a=b\n")
    (context / "data").write_bytes(os.urandom(1 << 20))
    place, done = f"{small.place}/rl", None
    for spare in (0, 8, 64, 512, 1100, 1500, 2200, 2600, 3400, 4400):
        small.inside("dd", "if=/dev/zero", f"of={small.place}/spare", "bs=1k", f"count={spare}")
        small.fill()
        small.inside("rm", f"{small.place}/spare")
        done = small("build", "-q", "--no-cache", "-t", "full", str(context))
        assert "Traceback" not in done.stderr and (done.returncode == 0 or done.stderr.startswith("Error: ") or "Error: " in done.stderr), done
        if done.returncode:
            assert "space" in done.stderr.lower() or done.returncode == 1, done.stderr  # cp in the container says so itself
            assert small("image", "exists", "full").returncode == 1
        small.free()
        assert small.inside("find", f"{place}/build/work", "-mindepth", "1").stdout == ""
        if not done.returncode:
            small.ok("rmi", "full")
        small.ok("image", "prune", "-f", "--build-cache")
    assert done is not None and done.returncode == 0, "the last one has room"
    small.ok("build", "-q", "-t", "full", str(context))
    small.ok("run", "--rm", "--network=none", "full", "cmp", "/data", "/again")
    small.ok("system", "check")
