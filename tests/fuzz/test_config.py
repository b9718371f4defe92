"""config.json, fuzzed: the checker answers with an error or lets through what the runtime can answer for.

The same examples in each run, so a failure is a failure for everybody. RL_FUZZ=20 looks further: 20 times as many,
others each time.
"""

from __future__ import annotations

import copy
import json
import os
import re
import select
import shutil
import signal
import socket
import struct
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from fuzz.documents import bases, mutated, plausible
from rl.config.jsonio import dumps, loads
from rl.errors import RlError, UsageError, to_wire
from rl.kernel import process as kp
from rl.runtime import container, userns, validate
from rl.runtime.cgroup import limits
from rl.runtime.sync import Io
from support import users
from unit.runtime.container_lab import make_root

#: A message that begins with, or has after a colon, the name of an exception: something was not foreseen.
INTERNAL = re.compile(r"(^|: )[A-Z]\w*(Error|Exception|Exit|Interrupt|Iteration|Warning): ")


_FACTOR = int(os.environ.get("RL_FUZZ", "1"))


def bounded(examples: int) -> Any:
    return settings(
        max_examples=examples * _FACTOR, derandomize=_FACTOR == 1, database=None, deadline=None, print_blob=False,
        suppress_health_check=list(HealthCheck),
    )


def checked(document: Any) -> bool:
    """Whether the checker lets *document* through; anything but a UsageError is a failure."""
    before = copy.deepcopy(document)
    try:
        validate.check(document)
    except UsageError as error:
        assert error.message.isprintable() and len(error.message) < 600 and error.hint
        assert not INTERNAL.search(error.message), error.message
        return False
    finally:
        assert repr(document) == repr(before)
    return True


def test_the_bases_are_valid() -> None:
    assert all(checked(document) for document in bases())


@given(mutated())
@bounded(600)
def test_the_checker_only_raises_errors(document: Any) -> None:
    if checked(document):
        validate.warnings(document)
        try:
            limits.settings((document["linux"] or {}).get("resources") or {})
        except RlError as error:
            assert not INTERNAL.search(error.message), error.message


class Runner:
    """A process of an ordinary user that plays the monitor: makes containers of documents, one child for each."""

    def __init__(self, user: users.User, base: Path) -> None:
        self.user = user
        self.base = base
        self.counts: Counter[str] = Counter()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.pid = os.fork()
        if self.pid == 0:
            ours.close()
            try:
                self._serve(theirs)
            except BaseException:
                traceback.print_exc()
            os._exit(1)
        theirs.close()
        self.socket = ours

    def close(self) -> None:
        self.socket.close()
        os.waitpid(self.pid, 0)

    def make(self, document: Any) -> dict[str, Any]:
        """What became of it: ``{"outcome", "error", "left"}``."""
        _send(self.socket, document)
        answer: dict[str, Any] = _receive(self.socket)
        self.counts[answer["outcome"]] += 1
        return answer

    def _serve(self, connection: socket.socket) -> None:
        os.setgroups([])
        os.setresgid(self.user.gid, self.user.gid, self.user.gid)
        os.setresuid(self.user.uid, self.user.uid, self.user.uid)
        kp.prctl(kp.PR_SET_DUMPABLE, 1)  # as an exec would leave it; else its files in /proc are root's
        os.environ.clear()
        os.environ.update(self.user.env())
        os.chdir(self.base)
        kp.prctl(kp.PR_SET_CHILD_SUBREAPER, 1)
        userns.enter(f"{self.base}/run")
        while True:
            document = _receive(connection)
            _send(connection, self._one(document))

    def _one(self, document: Any) -> dict[str, Any]:
        read_end, write_end = os.pipe()
        mounts = Path("/proc/self/mountinfo").read_text()
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, 0)
            try:
                answer = self._create(document)
            except BaseException:
                answer = {"outcome": "traceback", "error": traceback.format_exc()}
            os.write(write_end, json.dumps(answer).encode())
            os._exit(0)
        os.close(write_end)
        data = b""
        while select.select([read_end], [], [], 15)[0]:
            chunk = os.read(read_end, 65536)
            if not chunk:
                break
            data += chunk
        os.close(read_end)
        answer = json.loads(data) if data else {"outcome": "no answer", "error": f"within 15 s, or {pid} died"}
        left = []
        try:
            os.kill(pid, 0)
            if not data:
                os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            while True:  # what the child left is ours now: a subreaper's
                other, _ = os.waitpid(-1, os.WNOHANG)
                if other == 0:
                    left += Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
                    for orphan in left:
                        os.kill(int(orphan), signal.SIGKILL)
                        os.waitpid(int(orphan), 0)
                    break
        except ChildProcessError:
            pass
        answer["left"] = [f"process {orphan}" for orphan in left]
        if Path("/proc/self/mountinfo").read_text() != mounts:
            answer["left"].append("a mount")
        return answer

    def _create(self, document: Any) -> dict[str, Any]:
        null = os.open("/dev/null", os.O_RDWR)
        before, here = set(os.listdir("/proc/self/fd")), os.getcwd()
        created = None
        try:
            created = container.create(
                f"{self.base}/bundle", document, Io(null, null, null), container_id="fuzz", cache_dir=f"{self.base}/cache"
            )
            container.start(created)
            outcome, error = "started", {}
        except RlError as caught:
            outcome, error = "created" if created else "error", to_wire(caught)
        if created is not None:
            created.abandon()
        leaks = set(os.listdir("/proc/self/fd")) - before
        assert len(leaks) == 0, f"descriptors are left: {leaks}"
        assert os.getcwd() == here
        return {"outcome": outcome, "error": error}


def _send(connection: socket.socket, value: Any) -> None:
    data = dumps(value).encode()
    connection.sendall(struct.pack("=I", len(data)) + data)


def _receive(connection: socket.socket) -> Any:
    size = struct.unpack("=I", _exactly(connection, 4))[0]
    return loads(_exactly(connection, size).decode())


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = connection.recv(size - len(data))
        if not chunk:
            os._exit(0)  # the test has ended, or the runner: what it was is on stderr
        data += chunk
    return data


@pytest.fixture(scope="module")
def fuzz_user() -> users.User:
    if os.geteuid() != 0:
        pytest.skip("makes a user of its own: run it as root")
    return users.ensure("rltestfuzz")


@pytest.fixture(scope="module")
def base(fuzz_user: users.User) -> Iterator[Path]:
    """A directory of the user with a bundle in it."""
    directory = fuzz_user.home / "fuzz"
    shutil.rmtree(directory, ignore_errors=True)
    for name in ("bundle/data", "run", "cache"):
        (directory / name).mkdir(parents=True)
    make_root(directory / "bundle/rootfs")
    for name in ("new/dir", "srv/data", "sys/fs/cgroup"):
        (directory / "bundle/rootfs" / name).mkdir(parents=True, exist_ok=True)
    (directory / "bundle/rootfs/srv/file").touch()
    fuzz_user_owns(directory, fuzz_user)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


def fuzz_user_owns(directory: Path, user: users.User) -> None:
    for path in (directory, *directory.rglob("*")):
        os.chown(path, user.uid, user.gid, follow_symlinks=False)


@pytest.fixture(scope="module")
def runner(fuzz_user: users.User, base: Path) -> Iterator[Runner]:
    made = Runner(fuzz_user, base)
    yield made
    made.close()


def judge(answer: dict[str, Any]) -> None:
    assert answer["left"] == [], answer
    assert answer["outcome"] in ("started", "created", "error"), answer["error"]
    if answer["outcome"] != "started":
        error = answer["error"]
        assert error["message"] and not INTERNAL.search(error["message"]), error


def test_the_bases_start(runner: Runner) -> None:
    for document in bases():
        answer = runner.make(document)
        assert answer["outcome"] == "started", answer
        judge(answer)


def test_containers_of_plausible_documents(runner: Runner) -> None:
    """What the checker lets through makes a container, or an error that was foreseen; nothing is left of it."""
    runner.counts.clear()

    @given(plausible())
    @bounded(250)
    def run(document: Any) -> None:
        if checked(document):
            judge(runner.make(document))

    run()
    assert sum(runner.counts.values()) > 100 and runner.counts["started"] > 20 and runner.counts["error"] > 20, runner.counts


def test_containers_of_mutated_documents(runner: Runner) -> None:
    runner.counts.clear()

    @given(mutated())
    @bounded(150)
    def run(document: Any) -> None:
        if checked(document):
            judge(runner.make(document))

    run()
    assert sum(runner.counts.values()) > 10, runner.counts
