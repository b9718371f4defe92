"""A Debian with systemd in a virtual machine: rl as its ordinary user has it, with linger, from a login session.

One machine for all tests here, started once; of another the plug is pulled meanwhile (`support.vm_plug`, tests/conftest.py).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import driven, vm_image
from support.vm_machine import Done, Machine


class Vm:
    """The machine with rl in it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def rl(self, *arguments: str, timeout: float = 120) -> Done:
        driven.note(arguments)
        return self.machine.user("rl", *arguments, timeout=timeout)

    def ok(self, *arguments: str, timeout: float = 120) -> str:
        """stdout of an rl that must succeed, without the final newline."""
        driven.note(arguments)
        return self.machine.ok("rl", *arguments, timeout=timeout)

    def sh(self, script: str, timeout: float = 120) -> str:
        """stdout of a shell script of the user."""
        driven.note_command(["sh", "-ec", script])
        return self.machine.ok("sh", "-ec", script, timeout=timeout)

    def root(self, script: str, timeout: float = 120) -> str:
        """stdout of a shell script of root."""
        return self.machine.ok("sh", "-ec", script, root=True, timeout=timeout)

    def cgroup(self, name: str) -> str:
        """The directory of a running container's cgroup."""
        return "/sys/fs/cgroup" + self.ok("inspect", "--format", "{{.State.CgroupPath}}", name)

    def eventually(self, script: str, expected: str, seconds: float = 60) -> None:
        """Until the user's *script* prints *expected*."""
        end = time.monotonic() + seconds
        while (said := self.machine.user("sh", "-c", script).stdout.strip()) != expected:
            assert time.monotonic() < end, f"{script}: {said!r}, not {expected!r} after {seconds} s"
            time.sleep(0.5)

    def restart(self) -> None:
        """A clean reboot."""
        boots = len(self.machine.root_channel.boots)
        self.machine.root("systemctl", "--no-block", "reboot")
        self.machine.wait_boot(boots + 1, 240)


@pytest.fixture(scope="session", autouse=True)
def _programs() -> None:
    if vm_image.missing():
        pytest.skip(f"{', '.join(vm_image.missing())} missing: ./contrib/host-setup test")


@pytest.fixture(scope="session")
def _base() -> vm_image.Base:
    return vm_image.base()


@pytest.fixture(scope="session")
def _directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rl-vm-", dir="/var/tmp") as name:
        yield Path(name)


@pytest.fixture(scope="session")
def vm(_base: vm_image.Base, _directory: Path) -> Iterator[Vm]:
    """The machine, started; rl is installed as a user would, and has busybox."""
    lab = vm_image.lab_disk(_directory)
    disk = vm_image.overlay(_directory / "disk.qcow2", _base.disk)
    machine = Machine(_directory / "machine", _base, disk, lab)
    try:
        machine.wait_boot()
        machine.ok("loginctl", "enable-linger", vm_image.USER, root=True)
        machine.ok(
            "sh", "-c", "~/venv/bin/pip install --quiet --disable-pip-version-check --no-index --find-links /srv/lab rl",
            timeout=300,
        )  # fmt: skip
        machine.ok("rl", "load", "-q", "-i", "/srv/lab/busybox.tar")
        yield Vm(machine)
    finally:
        machine.kill()
