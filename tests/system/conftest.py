"""The real thing: the installed `rl`, run as ordinary users, against a real registry with real images.

A *lane* is one way a host can be: subordinate ids and kernel overlay and pasta (``user``), fuse-overlayfs
forced, slirp4netns forced, no subordinate ids (``single``), root. The pipeline's tests run once in each.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from support import images, users
from support.registry import Registry

Done = subprocess.CompletedProcess[str]


@dataclass
class Rl:
    """`rl` as one user with one set of global flags."""

    user: users.User
    flags: list[str] = field(default_factory=list)
    run_flags: list[str] = field(default_factory=list)
    lane: str = "user"

    def __call__(self, *arguments: str | Path, timeout: float = 120, input: str | None = None,
                 env: dict[str, str] | None = None) -> Done:
        words = [str(word) for word in arguments]
        if words[:1] in (["run"], ["create"]) and self.run_flags and not any(w.startswith(("--network", "--net")) for w in words):
            words[1:1] = self.run_flags
        return self.user.run("rl", *self.flags, *words, timeout=timeout, input=input, env=env)

    def ok(self, *arguments: str | Path, timeout: float = 120, input: str | None = None,
           env: dict[str, str] | None = None) -> str:
        """stdout of a command that must succeed, without the final newline."""
        done = self(*arguments, timeout=timeout, input=input, env=env)
        assert done.returncode == 0, f"rl {' '.join(map(str, arguments))}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout.removesuffix("\n")

    @property
    def data(self) -> Path:
        return self.user.home / ".local/share/rl"

    @property
    def run_dir(self) -> Path:
        return self.user.runtime_dir / "rl"

    def clean(self) -> None:
        """Remove every container and volume; the images stay."""
        self("rm", "--all", "--force", "--time", "0")
        if any((self.data / "volumes").glob("*")):
            self("volume", "rm", "--all")

    def containers(self) -> list[str]:
        return self.ok("ps", "-a", "-q", "--no-trunc").split()


def unique_user(name: str, subids: bool = True) -> users.User:
    user = users.ensure(name, subids)
    users.wipe(user)
    user.prepare()
    return user


@pytest.fixture(scope="session")
def busybox_archive() -> Iterator[Path]:
    """A docker-archive of busybox:latest that every user may read (pytest's own directories are root's)."""
    directory = Path(tempfile.mkdtemp(prefix="rl-test-", dir="/var/tmp"))
    directory.chmod(0o755)
    archive = images.busybox(directory)
    archive.chmod(0o644)
    yield archive
    shutil.rmtree(directory)


def _with_busybox(rl: Rl, archive: Path) -> Rl:
    rl.ok("load", "-q", "-i", archive)
    return rl


@pytest.fixture(scope="session")
def _user_rl(busybox_archive: Path) -> Iterator[Rl]:
    rl = Rl(unique_user("rltest"))
    yield _with_busybox(rl, busybox_archive)
    rl.clean()
    users.wipe(rl.user)


@pytest.fixture
def rl(_user_rl: Rl) -> Iterator[Rl]:
    """An ordinary user with everything available; busybox is loaded; no container is left after a test."""
    yield _user_rl
    _user_rl.clean()


LANES = ("user", "fuse", "slirp", "single", "root")


def make_lane(name: str, base: Path) -> Rl:
    if name == "root":
        home = base / "root-home"
        home.mkdir(exist_ok=True)
        user = users.root(home)
        users.wipe(user)
        user.prepare()
        return Rl(user, lane=name)
    user = unique_user(f"rltest-{name}", subids=name != "single")
    if name == "fuse":
        return Rl(user, flags=["--storage-driver", "fuse-overlayfs"], lane=name)
    if name == "slirp":
        return Rl(user, run_flags=["--network", "slirp4netns"], lane=name)
    return Rl(user, lane=name)


@pytest.fixture(scope="module", params=LANES)
def lane(request: pytest.FixtureRequest, busybox_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rl]:
    """`rl` in each lane in turn, with busybox loaded."""
    base = Path(f"/var/tmp/{users.PREFIX}-lanes")
    base.mkdir(mode=0o755, exist_ok=True)
    rl = make_lane(request.param, base)
    yield _with_busybox(rl, busybox_archive)
    rl.clean()
    users.wipe(rl.user)
    shutil.rmtree(base, ignore_errors=True)


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A plain registry on 127.0.0.1 that holds nginx, postgres, python and busybox."""
    with Registry(tmp_path_factory.mktemp("registry")) as server:
        small = images.busybox(tmp_path_factory.mktemp("push"))
        for name, archive in [("busybox", small), *((name, images.debian(name)) for name in ("nginx", "postgres", "python"))]:
            server.push_archive(archive, f"{name}:latest")
        yield server


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    with closing(socket.socket(socket.AF_INET, kind)) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def eventually(check: Callable[[], object], seconds: float = 30.0, every: float = 0.1) -> object:
    """The first true value of *check*; fails after *seconds*."""
    end = time.monotonic() + seconds
    while True:
        value = check()
        if value:
            return value
        assert time.monotonic() < end, f"not true within {seconds} s: {check}"
        time.sleep(every)


def fetch(port: int, path: str = "/", host: str = "127.0.0.1") -> str:
    """One HTTP/1.0 request; "" while nobody answers."""
    try:
        with socket.create_connection((host, port), timeout=3) as connection:
            connection.sendall(f"GET {path} HTTP/1.0\r\nHost: test\r\n\r\n".encode())
            answer = b""
            while chunk := connection.recv(65536):
                answer += chunk
            return answer.decode(errors="replace")
    except OSError:
        return ""


def records(rl: Rl) -> dict[str, dict[str, object]]:
    """state.json of every container on disk, read as a user would with cat and jq."""
    found = {}
    for path in (rl.data / "containers").glob("*/state.json"):
        found[path.parent.name] = json.loads(path.read_text())
    return found


def disk_usage(path: Path) -> int:
    """Bytes allocated below *path*."""
    total = 0
    for directory, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(directory, name)).st_blocks * 512
            except OSError:
                continue
    return total
