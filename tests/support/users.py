"""Ordinary users for the tests: made when they are missing, cleaned when the tests end.

The tests run as root, the product does not: `User.run` drops to the user with a clean environment,
as a login would give it.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from support import driven

BIN = Path(sys.executable).parent
_SUBID_SIZE = 65536
#: How the names of test users begin: another word for each of several test runs side by side on one machine.
PREFIX = os.environ.get("RL_TEST_USERS", "rltest")


@dataclass
class User:
    """A user with a home, a private runtime directory and, unless told otherwise, subordinate ids."""

    name: str
    uid: int
    gid: int
    home: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def runtime_dir(self) -> Path:
        return Path(f"/run/user/{self.uid}") if self.uid else Path(f"/run/{PREFIX}-root")

    def env(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        return {
            "HOME": str(self.home),
            "USER": self.name,
            "LOGNAME": self.name,
            "PATH": f"{BIN}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "XDG_RUNTIME_DIR": str(self.runtime_dir),
            "XDG_DATA_HOME": str(self.home / ".local/share"),
            "XDG_CONFIG_HOME": str(self.home / ".config"),
            "XDG_CACHE_HOME": str(self.home / ".cache"),
            "LANG": "C.UTF-8",
            "TERM": "xterm",
            **self.environment,
            **(extra or {}),
        }

    def argv(self, command: Sequence[str | Path]) -> list[str]:
        """*command* as this user; for Popen, with `env()` and `cwd=home`."""
        words = [str(word) for word in command]
        driven.note_command(words)
        if os.getuid() == self.uid:
            return words
        return ["setpriv", "--reuid", str(self.uid), "--regid", str(self.gid), "--init-groups", *words]

    def run(
        self,
        *command: str | Path,
        input: bytes | str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 120,
        check: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as this user; text output. With *check*, a failure shows what was printed."""
        text = input.decode() if isinstance(input, bytes) else input
        done = subprocess.run(
            self.argv(command),
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            text=True,
            env=self.env(env),
            cwd=self.home,
            timeout=timeout,
        )
        if check and done.returncode:
            raise AssertionError(
                f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done

    def popen(self, *command: str | Path, env: Mapping[str, str] | None = None, **kwargs: object) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.argv(command), env=self.env(env), cwd=self.home, **kwargs)  # type: ignore[call-overload,no-any-return]

    def prepare(self) -> None:
        """An empty home and a private runtime directory."""
        for path, mode in ((self.runtime_dir, 0o700), (self.home, 0o755)):
            path.mkdir(mode=mode, parents=True, exist_ok=True)
            os.chown(path, self.uid, self.gid)
            os.chmod(path, mode)

    def processes(self) -> list[str]:
        """Command lines of rl's processes of this user: monitors, containers, network helpers."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                # Not the owner of /proc/PID: that is root for a process that is not dumpable.
                status = Path(f"/proc/{pid}/status").read_text()
                words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            except OSError:
                continue
            uid = int(status.partition("\nUid:")[2].split()[0])
            if words and self._owns(uid) and (self.uid or "rl-monitor" in words):
                found.append(f"{pid} {words}")
        return found

    def _owns(self, uid: int) -> bool:
        return uid == self.uid or any(first <= uid < first + count for first, count in self.subids())

    def subids(self) -> list[tuple[int, int]]:
        lines = [line.split(":") for line in Path("/etc/subuid").read_text().splitlines()]
        return [(int(line[1]), int(line[2])) for line in lines if line[0] == self.name]


def ensure(name: str, subids: bool = True) -> User:
    """The user *name* (``rltest…``), made if it does not exist; $RL_TEST_USERS takes the place of ``rltest``."""
    name = PREFIX + name.removeprefix("rltest")
    with open("/run/rl-test-users.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another test run may be at it
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            subprocess.run(["useradd", "--create-home", "--shell", "/bin/bash", name], check=True, capture_output=True)
            entry = pwd.getpwnam(name)
        user = User(name, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir))
        for path in ("/etc/subuid", "/etc/subgid"):
            _set_range(Path(path), name, subids)
    user.prepare()
    return user


def root(home: Path) -> User:
    """Root itself, with a state of its own."""
    user = User("root", 0, 0, home)
    user.prepare()
    return user


def _set_range(path: Path, name: str, wanted: bool) -> None:
    lines = path.read_text().splitlines() if path.exists() else []
    own = [line for line in lines if line.startswith(f"{name}:")]
    if bool(own) == wanted:
        return
    others = [line for line in lines if not line.startswith(f"{name}:")]
    if wanted:
        ends = [int(f[1]) + int(f[2]) for f in (line.split(":") for line in others) if len(f) == 3]
        others.append(f"{name}:{max([100000, *ends])}:{_SUBID_SIZE}")
    path.write_text("".join(f"{line}\n" for line in others))


def wipe(user: User) -> None:
    """Remove rl's state of this user, whatever ids its files have, and what still runs."""
    user.run("pkill", "-KILL", "-u", str(user.uid)) if user.uid else None
    for path in (user.home / ".local/share/rl", user.home / ".cache/rl", user.home / ".config/containers",
                 user.runtime_dir / "rl"):
        shutil.rmtree(path, ignore_errors=True)
