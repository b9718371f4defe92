"""The engine's context: where the state is, and the global options of this call."""

from __future__ import annotations

import os

from rl.config.paths import Paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from rl.engine.prefork import Handle


class Engine:
    """What every verb needs.

    ``options`` are the global flags that were given (``storage_driver``, ``runtime``, …); ``prefork``
    is the monitor-to-be that ``rl run`` forked before it imported anything else; ``warn`` is called with
    each message a user should see though the verb goes on; ``render`` is the command line's template language,
    where that is the caller: (template, document) → text.
    """

    __slots__ = ("options", "paths", "prefork", "render", "warn")

    def __init__(
        self, paths: Paths, options: dict[str, Any] | None = None, warn: Callable[[str], None] | None = None
    ) -> None:
        self.paths = paths
        self.options = options or {}
        self.prefork: Handle | None = None
        self.warn = warn or _ignore
        self.render: Callable[[str, Any], str] | None = None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ, **options: Any) -> Engine:
        """The engine of the calling user. Raises RlError where the state directories cannot be made."""
        paths = Paths.from_environment(environ, options.get("root", ""), options.get("runroot", ""))
        paths.ensure()
        return cls(paths, options)


def _ignore(message: str) -> None:
    """Warnings go nowhere unless the caller takes them."""
