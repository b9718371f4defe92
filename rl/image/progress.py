"""What a user sees of a pull: bars on a terminal, plain lines elsewhere, nothing when quiet.

:class:`Progress` says nothing and is the interface; all its methods are called from one thread. Made by
the verbs that pull, called by rl.image.pull. All output goes to standard error: standard output has the
image's id only.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Progress:
    """The silent one. A *blob* is told apart by its digest; ``kind`` is "blob" or "config"."""

    def say(self, text: str) -> None:
        """A line of its own: what is being done now."""

    def begin(self, digest: str, size: int, kind: str = "blob") -> None:
        """A download begins, of *size* bytes."""

    def skip(self, digest: str, kind: str = "blob") -> None:
        """Not downloaded: it is here already."""

    def advance(self, digest: str, done: int) -> None:
        """*done* bytes of it are here now."""

    def downloaded(self, digest: str) -> None:
        """Complete and verified."""

    def unpacking(self, digest: str, done: int, total: int) -> None:
        """The layer in this blob is being unpacked: *done* of *total* bytes of the blob are read."""

    def tick(self) -> None:
        """Called about ten times a second, and whenever something happened."""

    def close(self) -> None:
        """The image is complete, or the pull has failed."""


class Plain(Progress):
    """Podman's lines."""

    def say(self, text: str) -> None:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def begin(self, digest: str, size: int, kind: str = "blob") -> None:
        self.say(f"Copying {kind} {digest}")

    def skip(self, digest: str, kind: str = "blob") -> None:
        if kind == "blob":
            self.say(f"Copying {kind} {digest} skipped: already exists")


class Bars(Progress):
    """A bar per blob. Drawn from :meth:`tick`, so that no thread exists when processes are forked."""

    def __init__(self) -> None:
        self._live: Any = None
        self._tasks: dict[str, Any] = {}

    def _bars(self) -> Any:
        if self._live is None:
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

            self._live = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=28),
                DownloadColumn(binary_units=True),
                TransferSpeedColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                console=Console(stderr=True, highlight=False),
                auto_refresh=False,
            )
            self._live.start()
        return self._live

    def say(self, text: str) -> None:
        if self._live is None:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()
        else:
            self._live.console.print(text, markup=False)

    def begin(self, digest: str, size: int, kind: str = "blob") -> None:
        self._tasks[digest] = self._bars().add_task(f"Copying {kind} {_short(digest)}", total=max(size, 1), note="")

    def skip(self, digest: str, kind: str = "blob") -> None:
        if kind == "blob":
            description = f"Copying blob {_short(digest)}"
            self._tasks[digest] = self._bars().add_task(description, total=1, completed=1, note="already exists")

    def advance(self, digest: str, done: int) -> None:
        self._live.update(self._tasks[digest], completed=done)

    def downloaded(self, digest: str) -> None:
        task = self._tasks[digest]
        self._live.update(task, completed=self._live.tasks[task].total, note="done")
        self._live.refresh()

    def unpacking(self, digest: str, done: int, total: int) -> None:
        if digest in self._tasks:
            note = "unpacked" if done >= total else f"unpacking {100 * done // max(total, 1)} %"
            self._live.update(self._tasks[digest], note=note)

    def tick(self) -> None:
        if self._live is not None:
            self._live.refresh()

    def close(self) -> None:
        if self._live is not None:
            self._live.refresh()
            self._live.stop()
            self._live = None
            self._tasks.clear()


def _short(digest: str) -> str:
    return digest.partition(":")[2][:12]


def choose(quiet: bool) -> Progress:
    """The one for standard error as it is."""
    if quiet:
        return Progress()
    return Bars() if sys.stderr.isatty() else Plain()
