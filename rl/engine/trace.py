"""--trace and --trace-file: what each step of `rl run` took, in the CLI and in the monitor.

Times are CLOCK_MONOTONIC nanoseconds, the same clock in both processes. The file is in the Trace Event
Format that Perfetto and chrome://tracing open ("complete" events, microseconds).
"""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Trace:
    """Spans in the order they were reported; ``begin`` is when the process started, as far as is known."""

    __slots__ = ("begin", "spans")

    def __init__(self) -> None:
        self.begin = _process_start()
        self.spans: list[tuple[str, int, int, int]] = []  # (name, start, end, pid)

    def add(self, name: str, start: int, end: int, pid: int) -> None:
        """Record one span."""
        self.spans.append((name, start, end, pid))

    def step(self, name: str, start: int) -> int:
        """Record a span of this process that ends now; returns now, where the next one starts."""
        now = time.monotonic_ns()
        self.spans.append((name, start, now, os.getpid()))
        return now

    def text(self) -> str:
        """One line a step: when it began, how long it took, its name; milliseconds since the program started."""
        lines = ["  start   taken  step"]
        for name, start, end, pid in sorted(self.spans, key=lambda span: span[1]):
            where = "" if pid == os.getpid() else "  (monitor)"
            lines.append(f"{(start - self.begin) / 1e6:7.1f} {(end - start) / 1e6:7.1f}  {name}{where}")
        last = max((end for _, _, end, _ in self.spans), default=self.begin)
        lines.append(f"{(last - self.begin) / 1e6:7.1f} ms until the command ran\n")
        return "\n".join(lines)

    def events(self) -> dict[str, Any]:
        """The Trace Event Format document."""
        events: list[dict[str, Any]] = []
        for pid in {pid for _, _, _, pid in self.spans}:
            name = "rl run" if pid == os.getpid() else "monitor"
            events.append({"ph": "M", "name": "process_name", "pid": pid, "tid": pid, "args": {"name": name}})
        for name, start, end, pid in self.spans:
            events.append({"ph": "X", "name": name, "cat": "rl", "ts": start / 1000, "dur": (end - start) / 1000,
                           "pid": pid, "tid": pid})
        return {"displayTimeUnit": "ms", "traceEvents": events}


def _process_start() -> int:
    """When this process began, from /proc (a resolution of 10 ms), never later than now."""
    from rl.kernel.process import start_time

    now = time.monotonic_ns()
    ticks = start_time("self")
    boot = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - now
    began = ticks * (10**9 // os.sysconf("SC_CLK_TCK")) - boot
    return began if 0 < now - began < 10**9 else now


def check(options: dict[str, Any]) -> None:
    """Raise RlError if --trace-file cannot be written, before anything runs."""
    path = options.get("trace_file")
    directory = os.path.dirname(os.path.abspath(path)) if path else ""
    if path and (os.path.isdir(path) or not os.access(directory, os.W_OK)):
        from rl.errors import UsageError

        reason = "it is a directory" if os.path.isdir(path) else f"{directory} is no directory that you may write to"
        raise UsageError(f"--trace-file {path}: {reason}", "name a file, such as --trace-file /tmp/trace.json")


def report(trace: Trace, options: dict[str, Any]) -> None:
    """Honour --trace (a table on stderr) and --trace-file."""
    if options.get("trace"):
        sys.stderr.write(trace.text())
    if options.get("trace_file"):
        from rl.config.jsonio import write_json
        from rl.errors import RlError

        try:
            write_json(options["trace_file"], trace.events(), mode=0o644, sync=False)
        except OSError as error:
            raise RlError(f"--trace-file {options['trace_file']}: {error.strerror}") from None
