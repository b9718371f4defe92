"""Real containers from the static busybox, created by a forked child that plays the monitor."""

from __future__ import annotations

import contextlib
import copy
import gc
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rl.errors import RlError, from_wire, to_wire
from rl.kernel import process as kp
from rl.runtime import container, userns
from rl.runtime.sync import Io
from support import users
from support.users import User

CAPABILITIES = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP"]
NEW = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "cgroup", "network")]


def busybox() -> str:
    """The static busybox of this machine, or a skipped test."""
    for path in ("/bin/busybox", "/usr/bin/busybox", "/sbin/busybox"):
        if os.path.exists(path) and b"/ld-" not in Path(path).read_bytes():
            return path
    pytest.skip("no static busybox on this machine (Debian: busybox-static)")


def make_root(root: Path) -> None:
    """A root file system: busybox with its links, passwd, group."""
    program = busybox()
    for name in ("bin", "etc", "proc", "sys", "dev", "tmp", "root", "srv"):
        (root / name).mkdir(parents=True)
    shutil.copy(program, root / "bin/busybox")
    for name in subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout.split():
        if name != "busybox":
            (root / "bin" / name).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:web:/srv:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nweb:x:33:\nlog:x:44:other,web\n")


def specification(command: list[str]) -> dict[str, Any]:
    """An OCI config.json much as the engine writes it."""
    safe = ["nosuid", "noexec", "nodev"]
    return {
        "ociVersion": "1.2.0",
        "process": {
            "args": command, "env": ["PATH=/bin"], "cwd": "/", "user": {"uid": 0, "gid": 0},
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES),
        },
        "root": {"path": "rootfs"},
        "hostname": "box",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": safe},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": [*safe, "mode=1777", "size=64k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": safe},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*safe, "ro"]},
        ],
        "linux": {
            "namespaces": copy.deepcopy(NEW),
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/sys/firmware", "/proc/acpi"],
            "readonlyPaths": ["/proc/sys", "/proc/irq"],
        },
    }


class Result:
    def __init__(self, code: int, output: str, error: RlError | None, extra: dict[str, Any]) -> None:
        self.code = code
        self.output = output
        self.error = error
        self.extra = extra


class Lab:
    """A bundle directory with a root, and running things in it.

    With a *user* the monitor is this ordinary user; with *shared* False it stays in the first user namespace, as
    `rl-runtime` does for real root.
    """

    def __init__(self, base: Path, user: User | None = None, shared: bool = True) -> None:
        self.user, self.shared = user, shared
        self.bundle = base / "bundle"
        self.root = self.bundle / "rootfs"
        self.run_dir = base / "run"
        self.run_dir.mkdir()
        make_root(self.root)
        if user is not None:
            for path in (base, *base.rglob("*")):
                os.lchown(path, user.uid, user.gid)

    def enter(self) -> str:
        """In a forked child: the id mode."""
        if self.user is not None:
            os.setgroups([])
            os.setresgid(self.user.gid, self.user.gid, self.user.gid)
            os.setresuid(self.user.uid, self.user.uid, self.user.uid)
            os.environ.update(self.user.env())
            kp.prctl(kp.PR_SET_DUMPABLE, 1)  # as after the exec that a user's process comes from
        return userns.enter(str(self.run_dir)) if self.shared else "none"

    def run(
        self, spec: dict[str, Any] | list[str] | str, *, preserve: list[int] | None = None, seconds: float = 20,
        talk: Callable[[int], bytes] | None = None, inside: Callable[[dict[str, Any]], None] | None = None,
    ) -> Result:
        """Create, start, wait. *talk* gets the pty's master; *inside* changes the spec within the user namespace."""
        if isinstance(spec, str):
            spec = specification(["sh", "-c", spec])
        elif isinstance(spec, list):
            spec = specification(spec)
        out_read, out_write = os.pipe()
        answer_read, answer_write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(out_read)
            try:
                answer = self._monitor(spec, out_write, preserve or [], talk, inside)
            except BaseException as error:
                answer = {"error": to_wire(error)}
            os.write(answer_write, json.dumps(answer).encode())
            os._exit(0)
        os.close(out_write)
        os.close(answer_write)
        try:
            output = _read_all(out_read, seconds)
            answer = json.loads(_read_all(answer_read, seconds) or b"{}")
        except BaseException:  # its own time is over, or the test's
            os.kill(child, 9)
            raise
        finally:
            os.close(out_read)
            os.close(answer_read)
            _reap(child)
        error = from_wire(answer["error"]) if "error" in answer else None
        if not isinstance(answer.get("code", 0), int):
            raise AssertionError(answer)
        text = (bytes.fromhex(answer.get("terminal", "")) + output).decode(errors="replace")
        return Result(answer.get("code", -1), text, error, answer)

    def _monitor(
        self, spec: dict[str, Any], out: int, preserve: list[int], talk: Callable[[int], bytes] | None,
        inside: Callable[[dict[str, Any]], None] | None,
    ) -> dict[str, Any]:
        mode = self.enter()
        if inside is not None:
            inside(spec)
        null = os.open("/dev/null", os.O_RDONLY)
        gc.collect()  # descriptors that cycles of earlier tests hold would be closed some time between the two counts
        before = os.listdir("/proc/self/fd")
        created = container.create(str(self.bundle), spec, Io(null, out, out, preserve), container_id="lab")
        os.close(out)
        pid = created.pid
        parent = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1]
        container.start(created)
        warnings = created.warnings
        said = b""
        if created.master >= 0:
            said = talk(created.master) if talk else b""
            os.close(created.master)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.close(created.pidfd)
        leaked = len(os.listdir("/proc/self/fd")) - len(before) + 1  # out was closed
        ours = int(parent) == os.getpid()
        return {"code": code, "terminal": said.hex(), "leaked": leaked, "mode": mode, "child": ours, "warnings": warnings}


def _reap(child: int, seconds: float = 60) -> None:
    """Wait for a child that has said all, or was killed. One that stays is shown: where in the kernel it is."""
    pidfd = os.pidfd_open(child)
    try:
        ended = select.select([pidfd], [], [], seconds)[0]
    finally:
        os.close(pidfd)
    if not ended:
        found = [f"{name}: {Path(f'/proc/{child}/{name}').read_text()}" for name in ("status", "wchan", "stack")]
        raise AssertionError(f"process {child} does not end\n" + "\n".join(found))
    os.waitpid(child, 0)


def _read_all(fd: int, seconds: float) -> bytes:
    data = b""
    end = time.monotonic() + seconds
    while True:
        if not select.select([fd], [], [], max(0, end - time.monotonic()))[0]:
            print(data.decode(errors="replace"), file=sys.stderr)
            raise TimeoutError("the container did not end")
        chunk = os.read(fd, 65536)
        if not chunk:
            return data
        data += chunk


def read_until(fd: int, wanted: bytes, seconds: float = 10) -> bytes:
    """What *fd* says until it says *wanted*, or ends."""
    data = b""
    end = time.monotonic() + seconds
    while wanted not in data and select.select([fd], [], [], max(0, end - time.monotonic()))[0]:
        try:
            chunk = os.read(fd, 4096)
        except OSError:
            break
        if not chunk:
            break
        data += chunk
    return data


def make_lab(base: Path) -> Lab:
    """A lab below *base*; skips where no user namespace can be made."""
    try:
        userns.call(str(base), os.getuid)
    except RlError as error:
        pytest.skip(f"no user namespace here: {error.message}")
    return Lab(base)


#: An ordinary user in the shared user namespace; root in one; real root in the first user namespace.
KINDS = ("user", "shared", "root")


@contextlib.contextmanager
def lab_of(kind: str) -> Iterator[Lab]:
    """A lab of one of `KINDS`, or "lone": a user without subordinate ids."""
    if os.getuid():
        pytest.skip("only root can become others")
    base = Path(tempfile.mkdtemp(prefix=f"{users.PREFIX}-lab-", dir="/var/tmp"))
    base.chmod(0o755)
    try:
        user = users.ensure(f"rltest{kind}", subids=kind == "user") if kind in ("user", "lone") else None
        yield Lab(base, user, kind != "root")
    finally:
        shutil.rmtree(base, ignore_errors=True)
