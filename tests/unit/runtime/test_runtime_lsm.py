"""AppArmor profiles and SELinux labels. No security module runs where the tests do, so the files are made up.

The kernel's side is a directory with the names of procfs; what is written, when, and what is refused are real.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rl.errors import RlError
from rl.runtime import exec as runtime_exec
from rl.runtime import lsm
from rl.runtime.sync import Io
from unit.runtime.container_lab import Lab, lab_of, specification
from unit.runtime.test_runtime_exec import Running

FILES = ("attr/exec", "attr/current", "attr/keycreate", "attr/apparmor/exec", "attr/apparmor/current", "task/7/attr/exec")


@pytest.fixture
def lab() -> Iterator[Lab]:
    with lab_of("user") as made:
        yield made


class Host:
    """A made-up /proc and /sys in *base*; a context manager that shows them to the code."""

    def __init__(self, base: Path) -> None:
        self.proc, self.sys = base / "hostproc", base / "hostsys"
        for name in FILES:
            file = self.proc / "77" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("")
        (self.proc / "self").symlink_to("77")
        (self.proc / "thread-self").symlink_to("77/task/7")
        (self.sys / "module/apparmor/parameters").mkdir(parents=True)
        (self.sys / "module/apparmor/parameters/enabled").write_text("Y\n")
        (self.sys / "fs/selinux").mkdir(parents=True)
        for path in (base, *base.rglob("*")):
            if not path.is_symlink():
                os.chmod(path, 0o777)

    def show(self, procfs: bool = True, selinux: bool = True) -> None:
        lsm.PROC, lsm.SYS = str(self.proc), str(self.sys)
        original = lsm.fs.fs_type
        here = os.stat(self.proc).st_dev
        if selinux:
            lsm._SELINUX_MAGIC = original(os.open(self.sys, os.O_PATH))
        if procfs:
            def is_procfs(fd: int) -> bool:
                return os.fstat(fd).st_dev == here

            lsm.is_procfs = is_procfs

    def read(self) -> dict[str, str]:
        return {name: text for name in FILES if (text := (self.proc / "77" / name).read_text())}


def shown(host: Host, **how: bool) -> Callable[[dict[str, Any]], None]:
    """For Lab.run(inside=): within the forked monitor only."""
    return lambda spec: host.show(**how)


def labelled(command: list[str], apparmor: str = "", selinux: str = "") -> dict[str, Any]:
    spec = specification(command)
    if apparmor:
        spec["process"]["apparmorProfile"] = apparmor
    if selinux:
        spec["process"]["selinuxLabel"] = selinux
    return spec


def test_a_host_without_them(lab: Lab) -> None:
    """The container runs, and a warning says what was left out; `unconfined` is what it is anyway."""
    if lsm.apparmor_enabled() or lsm.selinux_enabled():
        pytest.skip("this host has a security module")
    spec = labelled(["echo", "ran"], "strict", "a:b:c:s0")
    spec["linux"]["mountLabel"] = "a:b:d:s0"
    result = lab.run(spec)
    assert result.output == "ran\n", result.error
    assert [warning.split()[0] for warning in result.extra["warnings"]] == ["AppArmor", "SELinux"]
    assert lab.run(labelled(["true"], "unconfined")).extra["warnings"] == []


@pytest.mark.parametrize("masked", [False, True], ids=["", "no /proc in the container"])
def test_apparmor(lab: Lab, masked: bool) -> None:
    host = Host(lab.bundle.parent / "host")
    spec = labelled(["echo", "ran"], "my-profile")
    if masked:
        spec["mounts"] = [entry for entry in spec["mounts"] if entry["type"] != "proc"]
        spec["linux"].update(maskedPaths=[], readonlyPaths=[])
    result = lab.run(spec, inside=shown(host))
    assert result.output == "ran\n" and result.extra["leaked"] == 0, result.error
    assert host.read() == {"attr/apparmor/exec": "exec my-profile"}


def test_apparmor_before_linux_5_8(lab: Lab) -> None:
    host = Host(lab.bundle.parent / "host")
    for name in ("exec", "current"):
        (host.proc / "77/attr/apparmor" / name).unlink()
    lab.run(labelled(["true"], "my-profile"), inside=shown(host))
    assert (host.proc / "77/attr/exec").read_text() == "exec my-profile"


def test_already_unconfined(lab: Lab) -> None:
    """A profile that forbids every change is no obstacle to what is so already."""
    host = Host(lab.bundle.parent / "host")
    current = host.proc / "77/attr/apparmor/current"
    current.write_text("unconfined\n")
    lab.run(labelled(["true"], "unconfined"), inside=shown(host))
    assert host.read() == {"attr/apparmor/current": "unconfined\n"}
    current.write_text("other (enforce)\n")
    lab.run(labelled(["true"], "unconfined"), inside=shown(host))
    assert host.read()["attr/apparmor/exec"] == "exec unconfined"


def test_selinux(lab: Lab) -> None:
    """The label for exec, and for the session keyring while that is made."""
    host = Host(lab.bundle.parent / "host")
    os.unlink(host.proc / "77/attr/keycreate")
    os.mkfifo(host.proc / "77/attr/keycreate")
    os.chmod(host.proc / "77/attr/keycreate", 0o666)
    fifo = os.open(host.proc / "77/attr/keycreate", os.O_RDWR)
    result = lab.run(labelled(["echo", "ran"], "", "u:r:t:s0:c1,c2"), inside=shown(host))
    assert result.output == "ran\n", result.error and result.error.message
    assert (host.proc / "77/task/7/attr/exec").read_text() == "u:r:t:s0:c1,c2"
    assert os.read(fifo, 100) == b"u:r:t:s0:c1,c2"
    os.close(fifo)


def test_exec_is_labelled_too(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(lab.bundle.parent / "host")
    for name in ("PROC", "SYS", "_SELINUX_MAGIC", "is_procfs"):
        monkeypatch.setattr(lsm, name, getattr(lsm, name))  # put back afterwards
    box = Running(lab)
    try:
        host.show()
        assert box.exec(["true"], apparmorProfile="p", selinuxLabel="u:r:t:s0")[0] == 0
        spec = {"process": {**specification(["true"])["process"], "apparmorProfile": "p"}}
        before = os.listdir("/proc/self/fd")
        created = runtime_exec.spawn(box.pid, box.pidfd, spec, Io())
        os.waitpid(created.pid, 0)
        os.close(created.pidfd)
        assert os.listdir("/proc/self/fd") == before
    finally:
        box.end()
    assert host.read() == {"attr/apparmor/exec": "exec p", "task/7/attr/exec": "u:r:t:s0", "attr/keycreate": "u:r:t:s0"}


@pytest.mark.parametrize(("kind", "path"), [("apparmor", "attr/apparmor/exec"), ("selinux", "task/7/attr/exec")])
def test_a_label_the_host_refuses(lab: Lab, kind: str, path: str) -> None:
    host = Host(lab.bundle.parent / "host")
    (host.proc / "77" / path).chmod(0o400)
    spec = labelled(["true"], "p" if kind == "apparmor" else "", "u:r:t:s0" if kind == "selinux" else "")

    def inside(spec: dict[str, Any]) -> None:
        host.show()
        spec["process"]["capabilities"] = {}

    os.chown(host.proc / "77" / path, 0, 0)
    error = lab.run(spec, inside=inside).error
    key = {"apparmor": "process.apparmorProfile", "selinux": "process.selinuxLabel"}[kind]
    assert error is not None and key in error.message and "Permission denied" in error.message and error.hint


def test_a_proc_that_is_none(lab: Lab) -> None:
    """CVE-2019-16884: a directory that looks like /proc swallows the label, and the process runs unconfined."""
    host = Host(lab.bundle.parent / "host")
    error = lab.run(labelled(["true"], "my-profile"), inside=shown(host, procfs=False)).error
    assert error is not None and "is not a procfs" in error.message
    assert host.read() == {}


def test_a_mount_over_the_file(lab: Lab) -> None:
    """CVE-2025-52881: the write is redirected by a mount inside of /proc."""
    host = Host(lab.bundle.parent / "host")

    def cover(spec: dict[str, Any]) -> None:
        from rl.kernel import mount as m

        host.show()
        m.mount("tmpfs", str(host.proc / "77/attr/apparmor"), "tmpfs")
        (host.proc / "77/attr/apparmor/exec").write_text("")

    error = lab.run(labelled(["true"], "my-profile"), inside=cover).error
    assert error is not None and "process.apparmorProfile" in error.message and "mounted over" in error.hint


def test_real_files_of_this_kernel() -> None:
    """Without a module the kernel refuses with EINVAL, which becomes an error with the key's name."""
    proc = lsm.open_proc()
    try:
        with pytest.raises(RlError, match=r"process.selinuxLabel\): Invalid argument"):
            lsm.apply(lsm.Labels("", "u:r:t:s0"), proc)
    finally:
        os.close(proc)
