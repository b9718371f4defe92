"""crun and runc as the runtime: real programs, a root file system with busybox, a user namespace with one id."""

from __future__ import annotations

import os
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rl.config.jsonio import write_json
from rl.errors import CommandNotExecutableError, CommandNotFoundError, RlError, UnsupportedError
from rl.kernel import mount, namespaces
from rl.runtime import external
from rl.runtime.sync import Io

BUSYBOX = shutil.which("busybox")
RUNTIMES = [
    pytest.param(name, marks=pytest.mark.skipif(not shutil.which(name), reason=f"{name} is not installed"))
    for name in ("crun", "runc")
]
needs_busybox = pytest.mark.skipif(not BUSYBOX, reason="busybox (statically linked) is not installed")


def bundle(tmp_path: Path, args: list[str], terminal: bool = False) -> dict[str, Any]:
    binaries = tmp_path / "rootfs/bin"
    binaries.mkdir(parents=True, exist_ok=True)
    assert BUSYBOX
    shutil.copy(BUSYBOX, binaries / "sh")
    (binaries / "plain").write_text("not executable\n")
    for directory in ("proc", "dev", "sys"):
        (tmp_path / "rootfs" / directory).mkdir(exist_ok=True)
    return {
        "ociVersion": "1.2.0",
        "process": {"terminal": terminal, "user": {"uid": 0, "gid": 0}, "args": args, "env": ["PATH=/bin"], "cwd": "/"},
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance"]},
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")],
            "resources": {"pids": {"limit": 9}}, "cgroupsPath": "/nowhere",
        },
    }  # fmt: skip


def in_user_namespace(test: Callable[[], None]) -> None:
    """Run *test* in a child that is root of a user namespace with one id, as the monitor in single-id mode."""
    uid, gid = os.geteuid(), os.getegid()
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        report = b"skip"
        try:
            namespaces.unshare(namespaces.CLONE_NEWUSER | namespaces.CLONE_NEWNS)
            namespaces.write_proc("/proc/self/setgroups", "deny")
            namespaces.write_proc("/proc/self/uid_map", f"0 {uid} 1")
            namespaces.write_proc("/proc/self/gid_map", f"0 {gid} 1")
            mount.mount(None, "/", None, mount.MS_REC | mount.MS_SLAVE)
            try:
                test()
                report = b""
            except BaseException:
                report = traceback.format_exc().encode()
        finally:
            os.write(write_end, report)
            os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as pipe:
        report = pipe.read().decode()
    os.waitpid(pid, 0)
    if report == "skip":
        pytest.skip("this host does not let this user create user namespaces")
    assert not report, report


def make(runtime: str, tmp_path: Path, io: Io, args: list[str], terminal: bool = False) -> external.Created:
    spec = bundle(tmp_path, args, terminal)
    write_json(str(tmp_path / "config.json"), spec)
    return external.create(runtime, f"test-{os.getpid()}", str(tmp_path), spec, io, run_dir=str(tmp_path / "run"))


def nothing_left(tmp_path: Path) -> bool:
    return not os.path.exists(tmp_path / "run/runtime") or os.listdir(tmp_path / "run/runtime") == []


@needs_busybox
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_output_status_and_extra_descriptors(runtime: str, tmp_path: Path) -> None:
    def life() -> None:
        (out_r, out), (err_r, err), (extra_r, extra) = os.pipe(), os.pipe(), os.pipe()
        script = "echo $$; echo e >&2; echo x >&3; exit 7"
        created = make(runtime, tmp_path, Io(-1, out, err, [extra]), ["sh", "-c", script])
        assert created.pid > 1 and created.pidfd >= 0 and created.master == -1
        external.start(created)
        for fd in (out, err, extra):
            os.close(fd)
        assert (os.read(out_r, 99), os.read(err_r, 99), os.read(extra_r, 99)) == (b"1\n", b"e\n", b"x\n")
        assert os.waitstatus_to_exitcode(os.waitpid(created.pid, 0)[1]) == 7
        assert nothing_left(tmp_path)

    in_user_namespace(life)


@needs_busybox
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_terminal(runtime: str, tmp_path: Path) -> None:
    def life() -> None:
        script = "test -t 0 && test -t 2 && echo a terminal"
        created = make(runtime, tmp_path, Io(), ["sh", "-c", script], terminal=True)
        assert created.master >= 0 and not os.get_inheritable(created.master)
        external.start(created)
        assert os.read(created.master, 99) == b"a terminal\r\n"
        os.waitpid(created.pid, 0)

    in_user_namespace(life)


@needs_busybox
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    ("command", "expected"),
    [("nosuch", CommandNotFoundError), ("/bin/nosuch", CommandNotFoundError), ("/bin/mount", CommandNotFoundError),
     ("/bin/plain", CommandNotExecutableError), ("/bin", CommandNotExecutableError)],
)  # fmt: skip
def test_commands_that_cannot_be_run(runtime: str, tmp_path: Path, command: str, expected: type[RlError]) -> None:
    def fail() -> None:
        with pytest.raises(RlError) as caught:
            external.start(make(runtime, tmp_path, Io(), [command]))
        assert type(caught.value) is expected, caught.value.message
        assert runtime in caught.value.message and caught.value.hint
        assert nothing_left(tmp_path)
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)

    in_user_namespace(fail)


@needs_busybox
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_kill_and_delete(runtime: str, tmp_path: Path) -> None:
    def life() -> None:
        created = make(runtime, tmp_path, Io(), ["sh", "-c", "sleep 60"])
        external.start(created, keep_state=True)
        external.kill(created, 9)
        assert os.waitpid(created.pid, 0)[1] == 9
        external.delete(created)
        assert nothing_left(tmp_path)
        waiting = make(runtime, tmp_path, Io(), ["sh"])
        again = make(runtime, tmp_path, Io(), ["sh"])  # what a killed rl left under this id is no obstacle
        again.abandon()
        waiting.abandon()
        assert nothing_left(tmp_path)

    in_user_namespace(life)


@needs_busybox
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_broken_specification(runtime: str, tmp_path: Path) -> None:
    def fail() -> None:
        spec = bundle(tmp_path, ["sh"])
        spec["mounts"].append({"destination": "/x", "type": "bind", "source": "/no/such/source", "options": ["bind"]})
        write_json(str(tmp_path / "config.json"), spec)
        with pytest.raises(RlError, match="no/such/source") as caught:
            external.create(runtime, "broken", str(tmp_path), spec, Io(), run_dir=str(tmp_path / "run"))
        assert caught.value.exit_code == 125
        assert nothing_left(tmp_path)

    in_user_namespace(fail)


def test_no_such_program(tmp_path: Path) -> None:
    for name in ("no-such-runtime", str(tmp_path / "crun")):
        with pytest.raises(UnsupportedError, match="no such program"):
            external.create(name, "x", str(tmp_path), {}, Io(), run_dir=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
