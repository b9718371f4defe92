"""What a user sees of a build: lines as Podman's, a live view on a terminal (progress_terminal), or nothing.

Events are objects with a ``kind``: stage (a stage begins: name, text of FROM, total number of steps), step (number,
text, cached), output (data of a RUN), built, failed (the end of a stage), warning, debug (the terminal goes to the
shell text), commit (names), export, image (id), list (names of the manifest list of several platforms), tick (about
five times a second). All but the last five have ``stage``, its number; a build for several platforms adds ``platform``.

Called by rl.cli.image.build and, by way of *tell*, by rl.engine.build.
"""

from __future__ import annotations

import sys

from rl.errors import RlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO

    Event = dict[str, Any]


class Display:
    """The silent one, and the interface."""

    def event(self, event: Event) -> None:
        """Something happened."""

    def warning(self, text: str) -> None:
        """The engine's own warnings, which all but the silent one show."""
        sys.stderr.write(f"Warning: {text}\n")

    def close(self, failed: bool = False) -> None:
        """The build has ended."""


class Plain(Display):
    """Podman's lines, with the stage in front where there are several."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._stages: dict[int, dict[str, Any]] = {}
        self._rest: dict[int, bytes] = {}

    def event(self, event: Event) -> None:
        handler = getattr(self, f"_on_{event['kind']}", None)
        if handler:
            handler(event)
            self._out.flush()

    def warning(self, text: str) -> None:
        self._out.write(f"[Warning] {text}\n")
        self._out.flush()

    def _line(self, number: int, text: str) -> None:
        stage = self._stages[number]
        name = stage["name"] or str(number)
        several = len(self._stages) > 1 or number > 0
        platform = f"[{stage['platform']}] " if "platform" in stage else ""
        self._out.write(platform + (f"[{name}] " if several else "") + text + "\n")

    def _on_stage(self, event: Event) -> None:
        self._stages[event["stage"]] = event
        self._line(event["stage"], f"STEP 1/{event['total']}: {event['text']}")

    def _on_step(self, event: Event) -> None:
        number, total = event["number"] + 2, self._stages[event["stage"]]["total"]
        self._line(event["stage"], f"STEP {number}/{max(total, number)}: {event['text']}")
        if event["cached"]:
            self._line(event["stage"], "--> Using cache")

    def _on_output(self, event: Event) -> None:
        """Whole lines, so that those of stages side by side do not mix."""
        text = self._rest.pop(event["stage"], b"") + event["data"]
        lines = text.split(b"\n")
        self._rest[event["stage"]] = lines.pop()
        for line in lines:
            self._line(event["stage"], line.decode(errors="replace"))

    def _flush_output(self, number: int) -> None:
        rest = self._rest.pop(number, b"")
        if rest:
            self._line(number, rest.decode(errors="replace"))

    def _on_built(self, event: Event) -> None:
        self._flush_output(event["stage"])

    _on_failed = _on_built

    def _on_debug(self, event: Event) -> None:
        self._flush_output(event["stage"])
        self._out.write(f"The step failed. {event['text']} runs in the files before it; with it the build ends.\n")

    def _on_warning(self, event: Event) -> None:
        self.warning(event["text"])

    def _on_commit(self, event: Event) -> None:
        self._out.write(" ".join(["COMMIT", *event["names"]]) + "\n")

    def _on_image(self, event: Event) -> None:
        self._out.write(f"--> {event['id'][:12]}\n")
        self._on_list(event)

    def _on_list(self, event: Event) -> None:
        for name in event["names"]:
            self._out.write(f"Successfully tagged {name}\n")


class Copied(Display):
    """A display, and a file that gets plain lines, too (--logfile)."""

    def __init__(self, shown: Display, path: str) -> None:
        self._shown = shown
        try:
            self._file = open(path, "w", encoding="utf-8")
        except OSError as error:
            raise RlError(f"--logfile {path}: {error.strerror}", "choose a place you may write to") from None
        self._plain = Plain(self._file)

    def event(self, event: Event) -> None:
        self._shown.event(event)
        self._plain.event(event)

    def warning(self, text: str) -> None:
        self._shown.warning(text)
        self._plain.warning(text)

    def close(self, failed: bool = False) -> None:
        self._shown.close(failed)
        self._file.close()


def choose(options: dict[str, Any]) -> Display:
    """The display that the flags ask for: a live one on a terminal, else lines on standard output, as Podman's."""
    how = "quiet" if options.get("quiet") else options.get("progress", "auto")
    shown: Display
    if how == "quiet":
        shown = Display()
    elif how == "tty" or (how == "auto" and sys.stdout.isatty() and sys.stderr.isatty()):
        from rl.engine.build.progress_terminal import Live

        shown = Live()
    else:
        shown = Plain(sys.stdout)
    return Copied(shown, options["logfile"]) if options.get("logfile") else shown
