"""`rl-runtime` as a user of it sees it: bundles on disk, the program, its state directory."""

from __future__ import annotations

import copy
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.cgroup_lane import CgroupLane, captured
from support.users import BIN, User
from unit.runtime.container_lab import make_root

Done = subprocess.CompletedProcess[str]
PROGRAM = BIN / "rl-runtime"


class Lab:
    """A bundle of *user* at :attr:`bundle`, and `rl-runtime` with a ``--root`` of its own.

    With a *lane* it runs on a host with cgroup v2, else on the machine as it is.
    """

    def __init__(self, user: User, base: Path, lane: CgroupLane | None = None) -> None:
        self.user = user
        self.lane = lane
        self.base = base
        self.bundle = base / "bundle"
        self.root = base / "state"
        self.flags: list[str] = []
        make_root(self.bundle / "rootfs")
        subprocess.run(["chown", "-R", f"{user.uid}:{user.gid}", str(base)], check=True)
        self("spec", *([] if user.uid == 0 else ["--rootless"]), root=False)
        self.template = json.loads((self.bundle / "config.json").read_text())
        self.template["process"]["terminal"] = False
        self.template["root"]["readonly"] = False

    def __call__(
        self, *arguments: str | Path, root: bool = True, timeout: float = 60, input: str | None = None,
        env: dict[str, str] | None = None, program: str | Path = PROGRAM,
    ) -> Done:
        """Run the program in the bundle's directory."""
        words = [str(program), *(["--root", str(self.root)] if root else []), *self.flags, *map(str, arguments)]
        if self.lane:
            return self.lane.run(*words, cwd=self.bundle, timeout=timeout, env=env, input=input)
        return captured(self.user.argv(["env", "-C", str(self.bundle), *words]), self.user.env(env), timeout, input)

    def ok(self, *arguments: str | Path, **options: Any) -> str:
        """stdout of a command that must succeed."""
        done = self(*arguments, **options)
        assert done.returncode == 0, f"rl-runtime {arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def write(self, command: list[str] | str, change: Callable[[dict[str, Any]], None] | None = None) -> None:
        """The bundle's config.json: the template with this command (a string is a shell script), changed."""
        spec = copy.deepcopy(self.template)
        spec["process"]["args"] = ["sh", "-c", command] if isinstance(command, str) else command
        if change is not None:
            change(spec)
        self.write_text(json.dumps(spec))

    def write_text(self, text: str) -> None:
        """Any config.json."""
        (self.bundle / "config.json").write_text(text)

    def state(self, container_id: str) -> dict[str, Any]:
        """What `state` prints."""
        document: dict[str, Any] = json.loads(self.ok("state", container_id))
        return document

    def run(self, command: list[str] | str, change: Callable[[dict[str, Any]], None] | None = None) -> Done:
        """`rl-runtime run` of the template with this command."""
        self.write(command, change)
        return self("run", "lab")

    @contextmanager
    def running(self, container_id: str = "c1", command: list[str] | str = "sleep 1000") -> Iterator[str]:
        """A detached container, deleted at the end."""
        self.write(command)
        self.ok("run", "--detach", container_id)
        try:
            yield container_id
        finally:
            self("delete", "--force", container_id)

    def left(self) -> list[str]:
        """What is in the state directory."""
        return sorted(os.listdir(self.root)) if self.root.exists() else []
