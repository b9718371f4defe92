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
import subprocess
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.documents import BASES, as_user, mutated, of_node, plausible, processes
from rl.config.jsonio import dumps, loads
from rl.errors import RlError, UsageError, to_wire
from rl.kernel import mount as m
from rl.kernel import namespaces as ns
from rl.kernel import process as kp
from rl.runtime import container, schema, userns, validate
from rl.runtime.cgroup import limits
from rl.runtime.sync import Io
from support import users
from support.bundles import Lab
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
    assert all(checked(document) for document in BASES)


@given(mutated())
@bounded(300)
def test_the_checker_only_raises_errors(document: Any) -> None:
    if checked(document):
        validate.warnings(document)


@given(of_node(schema.RESOURCES))
@bounded(200)
def test_limits_of_any_resources(resources: Any) -> None:
    """What the checker of `update --resources` lets through becomes values for files, or an error."""
    try:
        validate.check_resources(resources)
        found = limits.settings(resources)
    except RlError as error:
        assert not INTERNAL.search(error.message), error.message
        return
    assert all("/" not in setting.file and "\0" not in setting.value for setting in found)


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

    def _enter(self) -> None:
        """Become the monitor of the user's containers."""
        os.setgroups([])
        os.setresgid(self.user.gid, self.user.gid, self.user.gid)
        os.setresuid(self.user.uid, self.user.uid, self.user.uid)
        kp.prctl(kp.PR_SET_DUMPABLE, 1)  # as an exec would leave it; else its files in /proc are root's
        os.environ.clear()
        os.environ.update(self.user.env())
        userns.enter(f"{self.base}/run")

    def _serve(self, connection: socket.socket) -> None:
        os.chdir(self.base)
        kp.prctl(kp.PR_SET_CHILD_SUBREAPER, 1)
        self._enter()
        # Away from what the host mounts meanwhile, and shared as on a host: what a container mounts too early shows here.
        m.mount(None, "/", None, m.MS_REC | m.MS_PRIVATE)
        m.mount(None, "/", None, m.MS_REC | m.MS_SHARED)
        while True:
            document = _receive(connection)
            _send(connection, self._one(document))

    def _one(self, document: Any) -> dict[str, Any]:
        read_end, write_end = os.pipe()
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
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
        now = Path("/proc/self/mountinfo").read_text()
        answer["left"] += [f"mount {line}" for line in now.splitlines() if line not in mounts]
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
            select.select([created.pidfd], [], [], 0.2)  # most end by themselves
            outcome, error = "started", {}
        except RlError as caught:
            outcome, error = "created" if created else "error", to_wire(caught)
        if created is not None:
            created.abandon()
        leaks = set(os.listdir("/proc/self/fd")) - before
        assert len(leaks) == 0, f"descriptors are left: {leaks}"
        assert os.getcwd() == here
        return {"outcome": outcome, "error": error}


class RootRunner(Runner):
    """Real root, without a user namespace: away from the host's network and mounts, which are read-only but for the base."""

    def _enter(self) -> None:
        ns.unshare(ns.CLONE_NEWNS | ns.CLONE_NEWNET | ns.CLONE_NEWIPC | ns.CLONE_NEWUTS)
        m.mount(None, "/", None, m.MS_REC | m.MS_PRIVATE)
        base = str(self.base)
        m.mount(base, base, None, m.MS_BIND)
        for path, on, off, deep in (("/", m.MOUNT_ATTR_RDONLY, 0, True), (base, 0, m.MOUNT_ATTR_RDONLY, False), ("/proc", 0, m.MOUNT_ATTR_RDONLY, False)):
            fd = os.open(path, os.O_PATH)
            m.mount_setattr(fd, "", on, off, recursive=deep)
            os.close(fd)
        os.chdir(base)  # the mount made above


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


def make_base(directory: Path) -> None:
    """A bundle, and room for state, below *directory*."""
    for name in ("bundle/data", "run", "cache"):
        (directory / name).mkdir(parents=True)
    make_root(directory / "bundle/rootfs")
    for name in ("new/dir", "srv/data", "sys/fs/cgroup"):
        (directory / "bundle/rootfs" / name).mkdir(parents=True, exist_ok=True)
    (directory / "bundle/rootfs/srv/file").touch()


@pytest.fixture(scope="module")
def runner(fuzz_user: users.User) -> Iterator[Runner]:
    directory = fuzz_user.home / "fuzz"
    shutil.rmtree(directory, ignore_errors=True)
    make_base(directory)
    for path in (directory, *directory.rglob("*")):
        os.chown(path, fuzz_user.uid, fuzz_user.gid, follow_symlinks=False)
    made = Runner(fuzz_user, directory)
    yield made
    made.close()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def root_runner() -> Iterator[Runner]:
    if os.geteuid() != 0:
        pytest.skip("containers of root: run it as root")
    directory = Path(tempfile.mkdtemp(prefix="rl-test-fuzz-root-", dir="/var/tmp"))
    make_base(directory)
    made = RootRunner(users.User("root", 0, 0, directory), directory)
    yield made
    made.close()
    shutil.rmtree(directory)


def judge(answer: dict[str, Any]) -> None:
    assert answer["left"] == [], answer
    assert answer["outcome"] in ("started", "created", "error"), answer["error"]
    if answer["outcome"] != "started":
        error = answer["error"]
        assert error["message"] and not INTERNAL.search(error["message"]), error


def test_the_bases_start(runner: Runner) -> None:
    for document in BASES:
        answer = runner.make(document)
        assert answer["outcome"] == "started", answer
        judge(answer)


@pytest.mark.parametrize("target", ["/dev/null", "/dev/tty", "/dev/also", "/srv/data", "/proc/keys", "/sys/firmware", "/tmp"])
@pytest.mark.parametrize("who", ["runner", "root_runner"])
def test_what_a_container_mounts_stays_in_it(request: pytest.FixtureRequest, who: str, target: str) -> None:
    """Mounts come from the host's shared ones; a privileged container that mounts over them must not reach the host."""
    runner: Runner = request.getfixturevalue(who)
    document = copy.deepcopy(BASES[2])
    for kind in ("bounding", "effective", "permitted"):
        document["process"]["capabilities"][kind].append("CAP_SYS_ADMIN")
    del document["linux"]["seccomp"], document["process"]["user"], document["hooks"]
    source = "/bin/busybox" if target in ("/dev/null", "/dev/tty", "/dev/also", "/proc/keys") else "/etc"
    document["process"]["args"] = ["sh", "-c", f"mount --bind {source} {target} && touch /dev/shm/done && sleep 9"]
    document["linux"]["maskedPaths"] = ["/proc/keys", "/proc/keys", "/sys/firmware", "/sys/firmware"]
    answer = runner.make(document)
    assert answer["outcome"] == "started", answer
    judge(answer)


def test_containers_of_root(root_runner: Runner) -> None:
    """The ways only root can go: device nodes of its own, ids and limits without a map. No hooks: they would be root's."""
    for document in BASES:
        plain = {key: value for key, value in document.items() if key != "hooks"}
        answer = root_runner.make(plain)
        assert answer["outcome"] == "started", answer
        judge(answer)
    root_runner.counts.clear()

    @given(st.one_of(plausible(), plausible(), mutated()))
    @bounded(100)
    def run(document: Any) -> None:
        if checked(document):
            document.pop("hooks", None)
            judge(root_runner.make(document))

    run()
    assert root_runner.counts["started"] > 20, root_runner.counts


def test_containers_of_plausible_documents(runner: Runner) -> None:
    """What the checker lets through makes a container, or an error that was foreseen; nothing is left of it."""
    runner.counts.clear()

    @given(plausible())
    @bounded(200)
    def run(document: Any) -> None:
        if checked(document):
            judge(runner.make(document))

    run()
    assert sum(runner.counts.values()) > 100 and runner.counts["started"] > 20 and runner.counts["error"] > 5, runner.counts


def test_containers_of_mutated_documents(runner: Runner) -> None:
    runner.counts.clear()

    @given(mutated())
    @bounded(100)
    def run(document: Any) -> None:
        if checked(document):
            judge(runner.make(document))

    run()
    assert sum(runner.counts.values()) > 10, runner.counts


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """`rl-runtime` of an ordinary user, on the machine as it is."""
    if os.geteuid() != 0:
        pytest.skip("makes a user of its own: run it as root")
    base = Path(tempfile.mkdtemp(prefix="rl-test-fuzz-", dir="/var/tmp"))
    base.chmod(0o755)
    user = users.ensure("rltestfuzzer")
    made = Lab(user, base)
    for name in ("new/dir", "srv/data", "sys/fs/cgroup"):
        (base / "bundle/rootfs" / name).mkdir(parents=True, exist_ok=True)
    (base / "bundle/data").mkdir()
    (base / "bundle/rootfs/srv/file").touch()
    subprocess.run(["chown", "-R", f"{user.uid}:{user.gid}", str(base)], check=True)
    yield made
    users.wipe(user)
    shutil.rmtree(base)


def judge_program(done: subprocess.CompletedProcess[str], code: int = 1) -> bool:
    """Whether it succeeded; if not, then with one line that says why, and runc's exit code."""
    assert "Traceback" not in done.stderr and "internal error" not in done.stderr, done.stderr
    lines = done.stderr.splitlines()  # those of hooks and of the command too
    failures = [line for line in lines if line.startswith("rl-runtime: ") and not line.startswith("rl-runtime: warning: ")]
    if failures:
        assert done.returncode == code and failures == lines[-1:] and not INTERNAL.search(lines[-1]), done.stderr
        assert len(lines[-1]) < 40_000
    return not failures


def nothing_is_left(lab: Lab) -> None:
    assert lab.left() == []
    end = time.monotonic() + 3
    while left := lab.user.processes():
        assert time.monotonic() < end, left
        time.sleep(0.01)  # who was killed is still to be reaped


@pytest.mark.parametrize(("strategy", "examples"), [(plausible, 50), (mutated, 30)], ids=["plausible", "mutated"])
def test_the_program(lab: Lab, strategy: Any, examples: int) -> None:
    """`rl-runtime run`, or create, start and delete, of any bundle: it works, or says in one line why not."""
    outcomes: Counter[bool] = Counter()

    @given(strategy((lab.user.uid, lab.user.gid)), st.booleans())
    @bounded(examples)
    def run(document: Any, at_once: bool) -> None:
        lab.write_text(json.dumps(document))
        try:
            if at_once:
                outcomes[judge_program(lab("run", "fuzz"))] += 1
            else:
                made = judge_program(lab("create", "fuzz"))
                outcomes[made] += 1
                assert lab.left() == (["fuzz"] if made else [])
                if made:
                    judge_program(lab("start", "fuzz"))
                    assert judge_program(lab("delete", "--force", "fuzz"))
            nothing_is_left(lab)
        finally:
            if lab.left():  # a failure should not make all that follow fail too
                lab("delete", "--force", "fuzz")

    run()
    assert outcomes[True] > 2 and outcomes[False] > 10, outcomes


def test_exec_of_any_process(lab: Lab) -> None:
    """`exec --process` of any document: it runs, or says in one line why not; the container goes on."""
    outcomes: Counter[bool] = Counter()
    file = lab.bundle / "process.json"

    def start(document: dict[str, Any]) -> None:
        document.clear()
        document.update(as_user(copy.deepcopy(BASES[0]), (lab.user.uid, lab.user.gid)))
        document["process"]["args"] = ["sleep", "1000"]

    lab.write([], start)
    lab.ok("run", "--detach", "fuzz")
    try:
        before = lab.user.processes()

        @given(processes())
        @bounded(30)
        def run(process: Any) -> None:
            file.write_text(json.dumps(process))
            outcomes[judge_program(lab("exec", "--process", file, "fuzz"), 255)] += 1
            assert lab.user.processes() == before

        run()
    finally:
        lab("delete", "--force", "fuzz")
    assert outcomes[True] > 5 and outcomes[False] > 5, outcomes
    nothing_is_left(lab)
