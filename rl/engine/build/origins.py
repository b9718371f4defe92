"""What names in a stage mean: the context, other stages, images; and what identifies their files.

Called by rl.engine.build.steps, on both sides: in the scheduler's process the stages that are done are at hand; a
worker asks the scheduler by its line.
"""

from __future__ import annotations

from rl.engine.build.steps import Incomplete

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rl.engine.build.gathering import Tree
    from rl.engine.build.graph import Graph
    from rl.engine.build.state import State
    from rl.engine.build.worker import Line


class Origins:
    """The names of stage *number*. ``missing``: number of the stage that was asked for last and is not built yet;
    ``fetched``: the directory for what comes from elsewhere."""

    def __init__(
        self, graph: Graph, number: int, tree: Tree, directories: Callable[[str], Tree],
        images: Callable[[str, str], State], done: dict[int, State], fetched: str,
    ) -> None:
        self._graph = graph
        self._number = number
        self._tree = tree
        self._directories = directories
        self._images = images
        self._done = done
        self._line: Line | None = None
        self._known: dict[str, dict[str, Any]] = {}
        self.missing: int | None = None
        self.fetched = fetched

    def connect(self, line: Line) -> None:
        """From here on the scheduler is asked."""
        self._line = line

    def context(self, origin: str = "") -> Tree | None:
        """See rl.engine.build.steps.Origins."""
        if not origin:
            return self._tree
        if self._graph.directory_of(origin):
            return self._directories(origin)
        return None

    def key(self, origin: str) -> str:
        """See rl.engine.build.steps.Origins."""
        found = self.files(origin)
        return str(found["key"])

    def files(self, origin: str) -> dict[str, Any]:
        """layers, snapshots and key of the stage or image *origin*. Raises Incomplete, where nobody can be asked."""
        if origin not in self._known:
            found = self.record(origin)
            if found is None and self._line is not None:
                self._line.send({"need": origin})
                found = self._line.receive()
            if found is None:
                raise Incomplete
            self._known[origin] = found
        return self._known[origin]

    def record(self, origin: str) -> dict[str, Any] | None:
        """The same from what is here; None: the stage is not built yet."""
        number = self._graph.stage_of(origin, self._number)
        if number is None and origin.isdecimal() and int(origin) < self._number:
            number = int(origin)
        if number is not None:
            self.missing = None if number in self._done else number
            if number not in self._done:
                return None
            state = self._done[number]
        elif self._line is not None:
            return None  # a worker pulls no images
        else:
            state = self._images(self._graph.image_of(origin), "")
        return {"layers": state.layers, "snapshots": state.snapshots, "key": state.key}
