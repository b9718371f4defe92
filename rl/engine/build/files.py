"""The files of states, mounted: what is below a step, what a stage or an image has. In the user namespace.

Called by rl.engine.build.worker, result and exporting.
"""

from __future__ import annotations

import os

from rl.storage import driver as storage
from rl.storage import layers as layer_store
from rl.storage.unpack import effective_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.paths import Paths
    from rl.engine.build.cache import Cache
    from rl.engine.build.state import State
    from rl.storage.driver import Driver, Mounted


class Files:
    """Stacks of directories, and where they are mounted until :meth:`close`."""

    def __init__(self, paths: Paths, cache: Cache, work: str, wanted: str) -> None:
        self._paths = paths
        self._cache = cache
        self.driver: Driver = storage.choose(paths, wanted)
        self.key = effective_key("")
        self._work = work
        self._mounted: dict[str, Mounted] = {}

    def lowers(self, state: State) -> list[str]:
        """The directories of *state*, top first; an empty one where it has no files."""
        return self.stack(state.layers, state.snapshots)

    def stack(self, layers: list[str], snapshots: list[str]) -> list[str]:
        found = []
        for name in reversed(snapshots):
            found.append(self._cache.files(name, self.key))
            if self._cache.is_full(name):
                return found
        found += layer_store.lowers(self._paths, layers, self.key)
        return list(dict.fromkeys(found)) or [self._empty()]

    def _empty(self) -> str:
        path = f"{self._work}/nothing"
        os.makedirs(path, 0o755, exist_ok=True)
        return path

    def mounted(self, name: str, lowers: list[str]) -> str:
        """*lowers*, to be read only, mounted once under *name*; where."""
        target = f"{self._work}/read-{name}"
        if name not in self._mounted:
            os.mkdir(target, 0o700)
            if self.driver.name == "copy":  # which has nothing without a writable directory
                upper, work = f"{target}.upper", f"{target}.work"
                os.mkdir(upper, 0o755)
                os.mkdir(work, 0o700)
                self._mounted[name] = self.driver.mount(lowers, upper, work, target)
            else:
                self._mounted[name] = self.driver.mount(lowers, "", "", target, readonly=True)
        return target

    def close(self) -> None:
        for mounted in self._mounted.values():
            self.driver.unmount(mounted)
        self._mounted.clear()
