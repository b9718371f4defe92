"""`rl stats`: what containers use, once or as it changes."""

from __future__ import annotations

import sys
import time

from rl.cli import common, output
from rl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine
    from rl.engine.stats import Sample, Sampler

USAGE = "[CONTAINER...]"
ARGUMENTS = (0, None)
INTERSPERSED = True
COMPLETE = "container"
OPTIONS = (
    ("-a --all", "flag", "", "Show all containers, not only the running ones"),
    ("--format", "value", "FORMAT", "json, or a Go template; `table …` adds headings"),
    ("-i --interval", "value", "SECONDS", "Seconds between two looks (default 5)", "int"),
    common.LATEST,
    ("--no-reset", "flag", "", "Print below what was printed before, instead of over it"),
    ("--no-stream", "flag", "", "Look once"),
    ("--no-trunc", "flag", "", "Show ids in full"),
)
HELP = """Show what containers use: processor, memory, network, disks, processes.

CPU % is of one processor, since the look before; the first one tells the average since the container's start.
"""

_COLUMNS = (
    ("ID", "ID"), ("NAME", "Name"), ("CPU %", "CPUPerc"), ("MEM USAGE / LIMIT", "MemUsage"), ("MEM %", "MemPerc"),
    ("NET IO", "NetIO"), ("BLOCK IO", "BlockIO"), ("PIDS", "PIDS"), ("CPU TIME", "UpTime"), ("AVG CPU %", "AVGCPU"),
)  # fmt: skip
_HEADINGS = (*_COLUMNS, ("MEM USAGE / LIMIT", "MemUsageBytes"))
_CLEAR = "\033[H\033[2J\033[3J"


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.stats import Sampler

    if sum(map(bool, (arguments, options.get("all"), options.get("latest")))) > 1:
        raise UsageError("--all, --latest and containers cannot be used together", "use one of them")
    interval = options.get("interval", 5)
    if interval < 1:
        raise UsageError("invalid interval, must be a positive number greater zero", "rl stats --interval 5")
    names = [name for name in arguments if name]
    if len(names) < len(arguments):
        raise UsageError("a container's name is empty", "`rl ps -a` lists all containers")
    if options.get("latest"):
        from rl.engine.selection import latest

        names = [latest(engine)]
    sampler = Sampler(engine, names, bool(options.get("all")))
    show = _Printer(options.get("format", ""), bool(options.get("no_trunc")))
    if options.get("no_stream"):
        show.print(sampler.sample())
        return 0
    reset = not options.get("no_reset") and sys.stdout.isatty()
    if reset and not show.format:
        _live(sampler, show, interval)
        return 0
    while True:
        samples = sampler.sample()
        if reset:
            output.write(_CLEAR)
        show.print(samples)
        sys.stdout.flush()
        if sampler.gone():
            return 0
        time.sleep(interval)


def _live(sampler: Sampler, show: _Printer, interval: int) -> None:
    """A table that stays where it is, on a terminal."""
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    console = Console()

    def table() -> Table:
        rows = [show.fields(sample) for sample in sampler.sample()]
        found = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        shown = _fitting(rows, console.width)
        for title, _ in shown:
            found.add_column(title, no_wrap=True)
        for row in rows:
            found.add_row(*[Text(str(row[field])) for _, field in shown])
        return found

    with Live(table(), console=console, auto_refresh=False) as live:
        while not sampler.gone():
            time.sleep(interval)
            live.update(table(), refresh=True)


def _fitting(rows: list[dict[str, Any]], width: int) -> output.Columns:
    """The columns that have room side by side; the last ones go first, for a cut figure is none."""
    shown = list(_COLUMNS)
    while len(shown) > 4:
        needed = sum(2 + max(len(title), *[len(str(row[field])) for row in rows], 0) for title, field in shown)
        if needed <= width:
            break
        shown.pop()
    return shown


class _Printer:
    """Samples as --format asks."""

    __slots__ = ("format", "full")

    def __init__(self, format: str, full: bool) -> None:
        self.format = "json" if format.strip() in ("{{json .}}", "{{ json . }}") else format
        self.full = full

    def print(self, samples: list[Sample]) -> None:
        rows = [self.fields(sample) for sample in samples]
        # Without rows a template would not be looked at: a wrong one is told all the same.
        if self.format not in ("", "json", "table"):
            output.template(self.format.removeprefix("table "))
        output.print_rows(self.format, rows, _COLUMNS, documents=lambda: [_document(row) for row in rows], indent=" ",
                          headings=_HEADINGS)

    def fields(self, sample: Sample) -> dict[str, Any]:
        """The fields of podman-stats(1)."""
        from rl.engine.times import binary_size, go_duration, human_size

        def pair(first: int, second: int) -> str:
            return f"{human_size(first, 4)} / {human_size(second, 4)}"

        limit = sample["memory_limit"]
        share = 100 * sample["memory"] / limit if limit else 0.0
        cpu_time = go_duration(sample["cpu_time"])
        return {
            "ID": sample["id"] if self.full else sample["id"][:12], "ContainerID": sample["id"], "Name": sample["name"],
            "AvgCPU": _number(sample["average"]), "AVGCPU": f"{sample['average']:.2f}%",
            "CPU": _number(sample["cpu"]), "CPUPerc": f"{sample['cpu']:.2f}%", "CPUNano": sample["cpu_time"],
            "CPUSystemNano": sample["cpu_system"], "SystemNano": sample["taken"], "Duration": sample["cpu_time"],
            "Up": cpu_time, "UpTime": cpu_time, "MemUsage": pair(sample["memory"], limit), "MemLimit": limit,
            "MemUsageBytes": f"{binary_size(sample['memory'])} / {binary_size(limit)}", "MemPerc": f"{share:.2f}%",
            "NetInput": sample["net_input"], "NetOutput": sample["net_output"],
            "NetIO": pair(sample["net_input"], sample["net_output"]), "BlockInput": sample["block_input"],
            "BlockOutput": sample["block_output"], "BlockIO": pair(sample["block_input"], sample["block_output"]),
            "PIDs": sample["pids"], "PIDS": str(sample["pids"]), "PerCPU": [],
        }  # fmt: skip


def _number(value: float) -> float | int:
    return int(value) if value == int(value) else value


def _document(row: dict[str, Any]) -> dict[str, str]:
    keys = (
        ("id", "ID"), ("name", "Name"), ("cpu_time", "UpTime"), ("cpu_percent", "CPUPerc"), ("avg_cpu", "AVGCPU"),
        ("mem_usage", "MemUsage"), ("mem_percent", "MemPerc"), ("net_io", "NetIO"), ("block_io", "BlockIO"),
        ("pids", "PIDS"),
    )  # fmt: skip
    return {key: row[field] for key, field in keys}
