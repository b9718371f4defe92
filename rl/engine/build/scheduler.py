"""The scheduler of a build: stages in the order that their needs allow, as far as possible without a worker.

It lives in the command line's process, single-threaded. A stage that the cache has ends here; else a worker is forked
where it stands. While a worker waits for another stage its slot is free for others. Ctrl-C, an error of one and the
end of this process end all of them.
"""

from __future__ import annotations

import _socket
import os
import select
import signal

from rl.config.jsonio import dumps, loads
from rl.engine.build import worker
from rl.engine.build.graph import SCRATCH
from rl.engine.build.origins import Origins
from rl.engine.build.state import State
from rl.engine.build.steps import Walk
from rl.errors import RlError, from_wire
from rl.image.containerfile import triggers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rl.config.paths import Paths
    from rl.engine.build.cache import Cache, Entry
    from rl.engine.build.gathering import Tree
    from rl.engine.build.graph import Graph, Node
    from rl.engine.build.remotecache import Source
    from rl.engine.build.settings import Settings

    Event = dict[str, Any]


class _Worker:
    """A running one: ``rest`` of what it said, ``needs``: the stage that it waits for, -1: none."""

    __slots__ = ("needs", "number", "output", "pid", "rest", "sock")

    def __init__(self, number: int, pid: int, sock: _socket.socket, output: int) -> None:
        self.number = number
        self.pid = pid
        self.sock = sock
        self.output = output
        self.rest = b""
        self.needs = ""


class Scheduler:
    """Builds what *graph* needs. *images* makes the state of an image; *tell* takes events (progress)."""

    def __init__(
        self, paths: Paths, cache: Cache, settings: Settings, graph: Graph, tree: Tree,
        images: Callable[[str, str], State], directories: Callable[[str], Tree], fetched: str,
        tell: Callable[[Event], None],
    ) -> None:
        self._paths = paths
        self._cache = cache
        self._settings = settings
        self._graph = graph
        self._tree = tree
        self._images = images
        self._directories = directories
        self._fetched = fetched
        self._tell = tell
        self._done: dict[int, State] = {}
        self._walks: dict[int, Walk] = {}
        self._workers: dict[int, _Worker] = {}  # by the number of their stage
        self.trail: list[tuple[str, Entry]] = []  # the steps that wrote files, by their keys
        self.remote: Source | None = None
        self.consumed: set[str] = set(graph.consumed)

    def run(self) -> State:
        """The state of the target. Raises RlError of the first stage that fails."""
        try:
            while len(self._done) < len(self._graph.nodes) or self._workers:
                self._advance()
                self._start()
                if self._workers:
                    self._listen()
                elif len(self._done) < len(self._graph.nodes) and self._stuck():
                    raise RlError("no stage of the build can go on", "this is a mistake in rl: please report it")
        finally:
            self._end()
        return self._done[self._graph.target]

    # as far as the cache goes

    def _advance(self) -> None:
        """Let every stage go on whose base is there, until none does any more."""
        moved = True
        while moved:
            moved = False
            for number in self._graph.order():
                if number in self._done or number in self._workers:
                    continue
                walk = self._walks.get(number) or self._begin(self._graph.nodes[number])
                if walk is None:
                    continue
                before = walk.index
                if walk.advance(None):
                    self._finish(number, walk.state, walk.scope.consumed, walk.trail)
                    moved = True
                moved = moved or walk.index > before

    def _begin(self, node: Node) -> Walk | None:
        """The walk of a stage, None as long as the stage that it is built upon is not done."""
        number = node.stage.number
        if node.base >= 0:
            if node.base not in self._done:
                return None
            state = self._done[node.base].child()
            state.base_name = node.stage.base
        elif node.image == SCRATCH:
            state = self._images("", node.platform)
        else:
            state = self._images(node.image, node.platform)
        start = node.stage.start
        total = len(node.stage.instructions) + 1
        self._tell({"kind": "stage", "stage": number, "name": node.stage.name, "text": start.text, "total": total})
        inherited = triggers(state.triggers, f"ONBUILD of {state.base_name}") if state.triggers else []
        state.triggers = []
        origins = Origins(self._graph, number, self._tree, self._directories, self._images, self._done, self._fetched)

        def say(kind: str, **fields: Any) -> None:
            self._tell({"kind": kind, "stage": number, **fields})

        walk = Walk(
            self._settings, self._cache, origins, [*inherited, *node.stage.instructions], state, self._graph.known, say,
        )
        walk.remote = self.remote
        self._walks[number] = walk
        return walk

    @property
    def states(self) -> list[State]:
        """Those of all stages that were needed."""
        return list(self._done.values())

    def _finish(self, number: int, state: State, consumed: set[str], trail: list[tuple[str, Entry]]) -> None:
        self._done[number] = state
        self.trail += trail
        self.consumed |= consumed
        self._tell({"kind": "built", "stage": number})
        for one in self._workers.values():
            if one.needs:
                self._answer(one)

    def _stuck(self) -> bool:
        return not any(walk.origins.missing in self._done for walk in self._walks.values())

    # workers

    def _start(self) -> None:
        """Fork a worker for stages that can go on, as long as there are slots."""
        for number, walk in self._walks.items():
            if number in self._done or number in self._workers:
                continue
            at_work = sum(not one.needs for one in self._workers.values())
            waits = walk.origins.missing  # the next step is of a stage that is not there
            if at_work >= self._settings.jobs or (waits is not None and waits not in self._done):
                continue
            self._fork(number, walk)

    def _fork(self, number: int, walk: Walk) -> None:
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            ours.close()
            os.close(read_end)
            for other in self._workers.values():
                other.sock.close()
                os.close(other.output)
            line = worker.Line(theirs)
            walk.origins.connect(line)
            walk.tell_by(lambda kind, **fields: line.send({"event": {"kind": kind, "stage": number, **fields}}))
            worker.main(self._paths, self._cache, self._settings, walk, line, write_end)
        theirs.close()
        os.close(write_end)
        os.set_blocking(read_end, False)
        self._workers[number] = _Worker(number, pid, ours, read_end)

    def _listen(self) -> None:
        """Take in what workers say, once."""
        poll = select.poll()
        by_fd = {}
        for one in self._workers.values():
            for fd in (one.sock.fileno(), one.output):
                poll.register(fd, select.POLLIN)
                by_fd[fd] = one
        for fd, _ in poll.poll(200):
            one = by_fd[fd]
            if one.number not in self._workers:
                continue  # it has ended in this very round
            if fd == one.output:
                self._output(one)
            else:
                self._messages(one)
        self._tell({"kind": "tick"})

    def _output(self, one: _Worker) -> None:
        """What the commands of its RUNs wrote, as far as it is there."""
        while True:
            try:
                data = os.read(one.output, 1 << 16)
            except BlockingIOError:
                return
            if not data:
                return
            self._tell({"kind": "output", "stage": one.number, "data": data})

    def _messages(self, one: _Worker) -> None:
        data = one.sock.recv(1 << 16)
        if not data:
            self._ended(one)
            return
        *lines, one.rest = (one.rest + data).split(b"\n")
        for line in lines:
            self._output(one)
            self._message(one, loads(line.decode(errors="surrogateescape")))

    def _message(self, one: _Worker, message: dict[str, Any]) -> None:
        if "event" in message:
            self._tell(message["event"])
        elif "warning" in message:
            self._tell({"kind": "warning", "stage": one.number, "text": message["warning"]})
        elif "need" in message:
            one.needs = message["need"]
            self._answer(one)
        elif "debug" in message:
            self._tell({"kind": "debug", "stage": one.number, "text": message["debug"]})
            one.sock.sendall(b"{}\n")
        elif "done" in message:
            self._reap(one)
            trail = [(key, entry) for key, entry in message["trail"]]
            self._finish(one.number, State.restore(message["done"]), set(message["consumed"]), trail)
        elif "error" in message:
            self._fail(one, message)

    def _answer(self, one: _Worker) -> None:
        """The stage or image that a worker waits for, if it is there."""
        walk = self._walks[one.number]
        found = walk.origins.record(one.needs)
        if found is not None:
            one.needs = ""
            one.sock.sendall(dumps(found).encode() + b"\n")

    def _ended(self, one: _Worker) -> None:
        status = self._reap(one)
        raise RlError(
            f"the process that builds stage {one.number} ended with status {status}",
            "something killed it: is there enough memory?",
        )

    def _reap(self, one: _Worker) -> int:
        self._output(one)
        os.close(one.output)
        one.sock.close()
        del self._workers[one.number]
        return os.waitstatus_to_exitcode(os.waitpid(one.pid, 0)[1])

    def _fail(self, one: _Worker, message: dict[str, Any]) -> None:
        error = from_wire(message["error"])
        error.exit_code = message["code"]
        self._tell({"kind": "failed", "stage": one.number})
        if message["text"] and not error.message.startswith(self._graph.file.source.name + ":"):
            place = f"{self._graph.file.source.name}:{message['line']}"
            error.message = f"building at STEP \"{message['text']}\" ({place}): {error.message}"
        raise error

    def _end(self) -> None:
        for one in list(self._workers.values()):
            try:
                os.kill(one.pid, signal.SIGTERM)
            except ProcessLookupError:
                pass
        for one in list(self._workers.values()):
            self._reap(one)
