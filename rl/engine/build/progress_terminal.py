"""A build on a terminal: the steps of all stages with their times, and the last lines of those that run."""

from __future__ import annotations

import sys
import time

from rich.console import Console, Group
from rich.live import Live as RichLive
from rich.text import Text

from rl.engine.build.progress import Display
from rl.errors import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rich.console import RenderableType

    Event = dict[str, Any]

_TAIL = 6  # lines of output below a step that runs
_DONE_SHOWN = 12  # steps that have ended, above those that run


class _Step:
    __slots__ = ("begun", "cached", "ended", "failed", "output", "rest", "title")

    def __init__(self, title: str, cached: bool) -> None:
        self.title = title
        self.cached = cached
        self.begun = time.monotonic()
        self.ended = self.begun if cached else 0.0
        self.failed = False
        self.output: list[str] = []
        self.rest = b""

    def take(self, data: bytes) -> None:
        *lines, self.rest = (self.rest + data).split(b"\n")
        self.output += [printable(line.decode(errors="replace").rpartition("\r")[2]) for line in lines]


class Live(Display):
    """BuildKit's view. What ended stays above, in order; a failing step's whole output is shown at the end."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stderr, highlight=False)
        self._live = RichLive(console=self._console, auto_refresh=False, transient=False)
        self._live.start()
        self._start = time.monotonic()
        self._stages: dict[int, dict[str, Any]] = {}
        self._steps: list[_Step] = []
        self._current: dict[int, _Step] = {}
        self._shown = 0.0
        self._foot = ""
        self._away = False  # a debug shell has the terminal

    def event(self, event: Event) -> None:
        kind = event["kind"]
        if kind == "stage":
            self._stages[event["stage"]] = event
            self._begin(event["stage"], 1, event["text"], cached=True)
        elif kind == "step":
            self._begin(event["stage"], event["number"] + 2, event["text"], event["cached"])
        elif kind == "output":
            self._current[event["stage"]].take(event["data"])
        elif kind in ("built", "failed"):
            self._end(event["stage"], kind == "failed")
        elif kind == "warning":
            self.warning(event["text"])
        elif kind == "debug":
            self._end(event["stage"], True)
            self._draw(whole=True)
            self._live.stop()
            self._away = True
            self._console.print(f"{event['text']} runs in the files before the step; with it the build ends.")
        elif kind == "export":
            self._foot = event["text"]
        elif kind == "image":
            self._foot = f"image {event['id'][:12]} " + " ".join(event["names"])
        elif kind == "list":
            self._foot = "manifest list " + " ".join(event["names"])
        if self._away:
            return
        if kind != "tick" or time.monotonic() - self._shown > 0.15:
            self._draw()

    def warning(self, text: str) -> None:
        self._console.print(Text(f"Warning: {printable(text)}", style="yellow"))

    def close(self, failed: bool = False) -> None:
        if not self._away:
            self._draw(whole=failed)
            self._live.stop()

    def _begin(self, number: int, at: int, text: str, cached: bool) -> None:
        self._end(number, False)
        stage = self._stages[number]
        name = stage["name"] or (f"stage-{number}" if len(self._stages) > 1 or number else "")
        name = f"{stage.get('platform', '')} {name}".strip()
        title = f"[{name} {at}/{max(stage['total'], at)}] {printable(text)}".replace("[ ", "[")
        step = _Step(title, cached)
        self._steps.append(step)
        self._current[number] = step

    def _end(self, number: int, failed: bool) -> None:
        step = self._current.get(number)
        if step and not step.ended:
            step.ended = time.monotonic()
            step.failed = failed

    def _draw(self, whole: bool = False) -> None:
        self._shown = time.monotonic()
        ended = [step for step in self._steps if step.ended]
        running = [step for step in self._steps if not step.ended]
        head = f"[+] Building {self._shown - self._start:.1f}s ({len(ended)}/{len(self._steps)})"
        lines: list[RenderableType] = [Text(head, style="bold")]
        for step in ended if whole else ended[-_DONE_SHOWN:]:
            lines.append(self._row(step))
            if step.failed:
                lines += [Text(f" => => {line}", style="red") for line in step.output]
        for step in running:
            lines.append(self._row(step))
            lines += [Text(f" => => {line}", style="dim", overflow="ellipsis", no_wrap=True)
                      for line in step.output[-_TAIL:]]
        if self._foot:
            lines.append(Text(f" => {self._foot}", overflow="ellipsis", no_wrap=True))
        self._live.update(Group(*lines), refresh=True)

    def _row(self, step: _Step) -> Text:
        spent = (step.ended or time.monotonic()) - step.begun
        mark = "ERROR " if step.failed else "CACHED " if step.cached and "FROM" not in step.title.upper() else ""
        tail = f" {spent:.1f}s"
        room = max(20, self._console.width - len(tail) - 4)
        left = f" => {mark}{step.title}"
        left = left if len(left) <= room else left[: room - 1] + "…"
        style = "red" if step.failed else "blue" if step.ended else ""
        return Text(left.ljust(room) + tail, style=style, no_wrap=True)
