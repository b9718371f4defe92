"""A worker: the process that builds a stage from where the cache ends.

It is forked by rl.engine.build.scheduler with the stage's walk in memory, enters the shared user namespace with a mount
namespace of its own, and goes on with the walk. It is single-threaded; RUN's containers are its children and end with
it. To the scheduler it speaks in lines of JSON over a socket: what happens, which stage it needs, how it ended.
"""

from __future__ import annotations

import os
import signal

from rl.config.jsonio import dumps, loads
from rl.engine.build.cache import Work
from rl.engine.build.copying import make_workdir
from rl.engine.build.files import Files
from rl.engine.build.gathering import Tree
from rl.engine.build.running import Sandbox
from rl.engine.build.state import State
from rl.errors import RlError, StepFailedError, to_wire
from rl.kernel import mount as m
from rl.kernel import namespaces as ns
from rl.kernel import process
from rl.runtime import userns
from rl.storage import container, trash

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable
    from typing import Any

    from rl.config.paths import Paths
    from rl.engine.build.cache import Cache
    from rl.engine.build.origins import Origins
    from rl.engine.build.running import RunSpec
    from rl.engine.build.settings import Settings
    from rl.engine.build.steps import Walk


class Line:
    """The worker's end of the socket."""

    def __init__(self, sock: _socket.socket) -> None:
        self._sock = sock
        self._rest = b""

    def send(self, message: dict[str, Any]) -> None:
        self._sock.sendall(dumps(message).encode(errors="surrogateescape") + b"\n")

    def receive(self) -> dict[str, Any]:
        """The scheduler's next message. Raises KeyboardInterrupt where that is gone."""
        while b"\n" not in self._rest:
            data = self._sock.recv(1 << 16)
            if not data:
                raise KeyboardInterrupt
            self._rest += data
        line, self._rest = self._rest.split(b"\n", 1)
        found: dict[str, Any] = loads(line.decode(errors="surrogateescape"))
        return found


def main(paths: Paths, cache: Cache, settings: Settings, walk: Walk, line: Line, output: int) -> None:
    """The life of a worker; never returns. *output*: where RUN writes to."""
    parent = os.getppid()
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command line decides, and tells us
        signal.signal(signal.SIGTERM, _terminate)
        try:
            _enter(paths, parent)
            hands = Hands(paths, cache, settings, walk.origins, line, output)
            try:
                walk.advance(hands)
                cache.make_durable(walk.new)
            finally:
                hands.close()
            line.send({"done": walk.state.export(), "consumed": sorted(walk.scope.consumed), "trail": walk.trail})
        except Exception as error:
            code = error.exit_code if isinstance(error, RlError) else 125
            place = walk.instructions[walk.index] if walk.index < len(walk.instructions) else None
            line.send({"error": to_wire(error), "code": code, "line": place.line.first if place else 0,
                       "text": place.text if place else "", "state": walk.state.export()})
        except KeyboardInterrupt:
            pass
    finally:
        os._exit(0)


def _enter(paths: Paths, parent: int) -> None:
    if userns.is_entered():
        userns.stay_inside()
        ns.unshare(ns.CLONE_NEWNS)
        m.mount(None, "/", None, m.MS_REC | m.MS_SLAVE)
    else:
        userns.enter(paths.run)
    process.prctl(process.PR_SET_PDEATHSIG, signal.SIGTERM)  # after the change of credentials, which forgets it
    if os.getppid() != parent:
        os._exit(1)


def _terminate(number: int, frame: object) -> None:
    raise KeyboardInterrupt


class _EndedError(Exception):
    """A debug shell has ended: what it changed is not kept."""


class Hands:
    """What a walk cannot do without a namespace. See rl.engine.build.steps.Hands."""

    def __init__(
        self, paths: Paths, cache: Cache, settings: Settings, origins: Origins, line: Line, output: int
    ) -> None:
        self._paths = paths
        self._cache = cache
        self._origins = origins
        self._line = line
        self._output = output
        self._work = Work(cache)
        self._files = Files(paths, cache, self._work.path, settings.template["driver"])
        self.sandbox = Sandbox(paths, settings.template, self._work.path, self._warn, settings.strict)
        self._trees: dict[str, Tree] = {}
        self._places: dict[str, str] = {}

    def close(self) -> None:
        """Unmount, end helpers, remove the worker's directory."""
        self.sandbox.close()
        for tree in self._trees.values():
            os.close(tree.fd)
        self._files.close()
        self._work.close()

    def _warn(self, text: str) -> None:
        self._line.send({"warning": text})

    # writing

    def write(self, state: State, change: Callable[[str], object]) -> str:
        """See rl.engine.build.steps.Hands."""
        name = os.urandom(16).hex()
        directory = f"{self._work.path}/{name}"
        os.mkdir(directory, 0o700)
        lowers = self._files.lowers(state)
        upper, work, target = container.prepare(self._paths, directory, lowers)
        driver = self._files.driver
        mounted = driver.mount(lowers, upper, work, target, volatile=True)
        try:
            change(target)
        except BaseException:
            driver.unmount(mounted)
            trash.remove_tree(directory)
            raise
        driver.unmount(mounted)
        place = self._cache.snapshot(name)
        staged = f"{directory}/snapshot"
        os.mkdir(staged, 0o700)
        os.rename(upper, f"{staged}/fs")
        if driver.name == "copy":
            os.close(os.open(f"{staged}/full", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        os.rename(staged, place)
        return name

    def run(self, root: str, spec: RunSpec) -> None:
        """See rl.engine.build.steps.Hands."""
        code = self.sandbox.run(root, spec, self._output)
        if code:
            raise StepFailedError(f"the command ended with exit code {code}", code=code)

    def debug(self, state: State, spec: RunSpec) -> None:
        """See rl.engine.build.steps.Hands. The scheduler gives the terminal away first."""
        self._line.send({"debug": " ".join(spec.argv)})
        self._line.receive()
        try:
            self.write(state, lambda root: self._shell(root, spec))
        except _EndedError:
            pass

    def _shell(self, root: str, spec: RunSpec) -> None:
        make_workdir(root, spec.workdir, spec.user)
        self.sandbox.run(root, spec, self._output)
        raise _EndedError

    # reading

    def path(self, origin: str) -> str:
        """See rl.engine.build.steps.Hands."""
        tree = self._origins.context(origin)
        if tree is not None:
            return os.readlink(f"/proc/self/fd/{tree.fd}")
        if origin not in self._places:
            found = self._origins.files(origin)
            lowers = self._files.stack(found["layers"], found["snapshots"])
            self._places[origin] = self._files.mounted(str(len(self._places)), lowers)
        return self._places[origin]

    def tree(self, origin: str) -> Tree:
        """See rl.engine.build.steps.Hands."""
        if origin not in self._trees:
            fd = os.open(self.path(origin), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._trees[origin] = Tree(fd, origin, original=True)
        return self._trees[origin]
