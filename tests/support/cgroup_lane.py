"""A host with cgroup v2 alone, on any machine: a private mount namespace with a subtree delegated to a user.

As on a host with systemd, the user may make cgroups below the one it starts in. The machine's own cgroups and mounts
stay as they are; what is added to its hierarchy is one directory, removed at the end, and controllers that root's
containers had enabled on the way there are disabled again.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from support.users import User

_SET_UP = """
if mountpoint -q /sys/fs/cgroup; then umount -R -l /sys/fs/cgroup; fi
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir "$1"
chown "$2:$3" "$1" "$1/cgroup.procs" "$1/cgroup.subtree_control" "$1/cgroup.threads"
mount --make-rshared /
echo ready
exec sleep 3600
"""
_ENTER = 'echo $$ > "$0/cgroup.procs" && exec "$@"'


def captured(
    command: Sequence[str], env: dict[str, str], timeout: float = 120, input: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run *command*; its output goes through files, as what it leaves running may keep it open."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err, tempfile.TemporaryFile("w+") as given:
        given.write(input or "")
        given.seek(0)
        done = subprocess.run(command, stdin=given, stdout=out, stderr=err, env=env, timeout=timeout, check=False)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(command, done.returncode, out.read(), err.read())


class CgroupLane:
    """Commands of *user* run in :attr:`directory`, which is the user's; a context manager."""

    def __init__(self, user: User) -> None:
        self.user = user
        self.directory = Path(f"/sys/fs/cgroup/rl-test-{user.name}-{os.urandom(4).hex()}")

    def __enter__(self) -> CgroupLane:
        words = ["unshare", "--mount", "--propagation", "slave", "sh", "-euc", _SET_UP, "lane", str(self.directory),
                 str(self.user.uid), str(self.user.gid)]  # fmt: skip
        self.host = subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        assert self.host.stdout and self.host.stdout.readline() == b"ready\n"
        self.enabled = self._enabled()
        return self

    def _enabled(self) -> set[str]:
        """The controllers that the root of the hierarchy hands down."""
        words = [*self._inside(), "cat", "/sys/fs/cgroup/cgroup.subtree_control"]
        return set(subprocess.run(words, capture_output=True, text=True, check=True).stdout.split())

    def __exit__(self, *_: object) -> None:
        script = (
            'if [ -e "$0/cgroup.kill" ]; then echo 1 > "$0/cgroup.kill"; fi;'
            'for i in 1 2 3 4 5 6 7 8 9; do find "$0" -depth -type d -exec rmdir {} + 2>/dev/null;'
            ' [ -d "$0" ] || exit 0; sleep 0.2; done; exit 1'
        )
        try:
            subprocess.run([*self._inside(), "sh", "-c", script, str(self.directory)], check=True, timeout=30)
            for name in self._enabled() - self.enabled:
                words = ["sh", "-c", f"echo -{name} > /sys/fs/cgroup/cgroup.subtree_control"]
                subprocess.run([*self._inside(), *words], check=False, capture_output=True)
        finally:
            self.host.kill()
            self.host.wait()
            assert self.host.stdout
            self.host.stdout.close()

    def _inside(self) -> list[str]:
        return ["nsenter", f"--mount=/proc/{self.host.pid}/ns/mnt", "--"]

    def argv(self, command: Sequence[str | Path]) -> list[str]:
        """*command* as the user, in the lane; for Popen with ``user.env()``."""
        return [*self._inside(), "sh", "-c", _ENTER, str(self.directory), *self.user.argv(command)]

    def run(
        self, *command: str | Path, timeout: float = 120, cwd: Path | None = None, env: dict[str, str] | None = None,
        input: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run *command* to its end; text output."""
        words = self.argv(["env", "-C", str(cwd or self.user.home), *command])
        return captured(words, self.user.env(env), timeout, input)

    def groups(self) -> list[str]:
        """The cgroups below the user's, relative; removed ones may take a moment to go."""
        time.sleep(0.05)
        done = subprocess.run(
            [*self._inside(), "find", str(self.directory), "-mindepth", "1", "-type", "d", "-printf", "%P\n"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return sorted(done.stdout.split())
