"""Labs for the callers a runtime has: real root, an ordinary user, the root of a user's shared namespace.

Each is a :class:`~unit.runtime.container_lab.Lab` whose forked child becomes that caller before it creates.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rl.kernel import mount as m
from rl.kernel import namespaces as ns
from rl.kernel import process as kp
from rl.runtime import userns
from support import users
from unit.runtime.container_lab import Lab, Result, specification


class RootLab(Lab):
    """Real root, no user namespace: as `runc run` by root."""

    def enter(self) -> str:
        ns.unshare(ns.CLONE_NEWNS)
        m.mount(None, "/", None, m.MS_REC | m.MS_PRIVATE)
        return "root"


class UserLab(Lab):
    """An ordinary user outside of any user namespace; the spec has a new one, as `runc spec --rootless` writes it."""

    def __init__(self, base: Path, user: users.User) -> None:
        super().__init__(base)
        self.user = user
        give(base, user)

    def enter(self) -> str:
        become(self.user)
        return "none"

    def run(self, spec: dict[str, Any] | list[str] | str, **named: Any) -> Result:
        if isinstance(spec, str):
            spec = sh(spec)
        elif isinstance(spec, list):
            spec = specification(spec)
        if {"type": "user"} not in spec["linux"]["namespaces"]:
            spec["linux"]["namespaces"].append({"type": "user"})
            spec["linux"]["uidMappings"] = [{"containerID": 0, "hostID": self.user.uid, "size": 1}]
            spec["linux"]["gidMappings"] = [{"containerID": 0, "hostID": self.user.gid, "size": 1}]
        return super().run(spec, **named)


class SharedLab(UserLab):
    """An ordinary user's shared user namespace, as rl's monitor makes it."""

    def enter(self) -> str:
        become(self.user)
        return userns.enter(str(self.run_dir))

    def run(self, spec: dict[str, Any] | list[str] | str, **named: Any) -> Result:
        return Lab.run(self, spec, **named)


def sh(script: str) -> dict[str, Any]:
    return specification(["sh", "-c", script])


def become(user: users.User) -> None:
    """Drop to *user*, as a login would have it."""
    os.setgroups([user.gid])
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)
    kp.prctl(kp.PR_SET_DUMPABLE, 1)  # changing the uid took it, exec would give it back: /proc/self belongs to root else
    os.environ["PATH"] = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


def give(path: Path, user: users.User) -> None:
    """Make *path* and all below it the user's."""
    subprocess.run(["chown", "-R", f"{user.uid}:{user.gid}", str(path)], check=True)


LABS: dict[str, Callable[[Path], Lab]] = {
    "root": RootLab,
    "user": lambda base: UserLab(base, users.ensure("rltest-mounts")),
    "shared": lambda base: SharedLab(base, users.ensure("rltest-mounts")),
}


def labs(kind: str) -> Iterator[Lab]:
    """A lab of *kind* in a directory that ordinary users can reach; for fixtures."""
    if os.getuid() != 0:
        pytest.skip("only root can play root and other users")
    base = Path(tempfile.mkdtemp(prefix="rl-mounts-"))
    base.chmod(0o755)
    try:
        yield LABS[kind](base)
    finally:
        shutil.rmtree(base)


def mountinfo(text: str) -> dict[str, tuple[set[str], str, set[str], str]]:
    """Mount point → (options of the mount, type, options of the file system, propagation); the topmost of each point."""
    found = {}
    for line in text.splitlines():
        if " - " not in line:
            continue
        left, right = line.split(" - ", 1)
        fields, end = left.split(), right.split()
        found[fields[4]] = (set(fields[5].split(",")), end[0], set(end[2].split(",")), " ".join(fields[6:]))
    return found
