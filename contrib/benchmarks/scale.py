"""Rows with many containers: 200 that run, 1 000 that do not."""

from __future__ import annotations

import os
import statistics
import subprocess
from pathlib import Path

from benchmarks.harness import Bench, pss


def scale_running(bench: Bench, number: int = 200) -> None:
    """*number* running containers: what ps, the next start, the monitors and the stop of all of them cost."""
    if not bench.wanted(f"scale: {number} running"):
        return
    name = f"scale: {number} running, "
    start = ["run", "-d", "--network=none", "bench", "sleep", "100000"]
    for label, tool in (("rl", bench.rl), ("podman", bench.podman)):
        empty = bench.median([*tool, "ps"])
        starts = [bench.timed([*tool, *start]) for _ in range(number)]
        full = bench.median([*tool, "ps"])
        bench.row(f"{name}ps beside none, {label}", "ms", full, empty, 2.0 if label == "rl" else None)
        first, last = statistics.median(starts[2:12]), statistics.median(starts[-10:])
        bench.row(f"{name}start of the last ten beside the first, {label}", "ms", last, first, 1.2 if label == "rl" else None)
        if label == "rl":
            bench.row(f"{name}monitor memory", "MB PSS", monitors_memory(), None, None)
            bench.rows[-1]["limit"] = 3.5
    ours, theirs = (bench.timed([*tool, "stop", "-a", "-t", "1"]) for tool in (bench.rl, bench.podman))
    bench.row(f"{name}stop -a -t 1", "ms", ours, theirs, 1.0)
    for tool in (bench.rl, bench.podman):
        bench.quiet([*tool, "rm", "-a", "-f", "-t", "0"])


def monitors_memory() -> float:
    """MB of one of rl's monitors, on average."""
    sizes = []
    for entry in Path("/proc").iterdir():
        try:
            if (entry / "comm").read_text() == "rl-monitor\n" and entry.stat().st_uid in (os.getuid(), 0):
                sizes.append(pss(int(entry.name)))
        except (OSError, ValueError):
            continue
    return statistics.mean(sizes)


def scale_stopped(bench: Bench, number: int = 1000) -> None:
    """*number* stopped containers: no command may take half a second."""
    if not bench.wanted(f"scale: {number} stopped"):
        return
    for index in range(number):
        bench.quiet([*bench.rl, "create", "--name", f"many-{index}", "--network=none", "bench", "true"])
    prefix = subprocess.run([*bench.rl, "inspect", "--format", "{{.Id}}", "many-7"], capture_output=True, text=True).stdout[:12]
    for words in ("ps -a", "ps -a --size", "ps -a --format json", "ps -a --filter name=many-77 --sort names", f"inspect {prefix}",
                  "start many-7", "wait many-7", "logs many-7", "rename many-7 many-x", "rm many-x", "run --rm --network=none bench true",
                  "create --name many-y bench true", "images", "volume ls", "system df", "container prune --force --filter label=none",
                  "stop -a", "kill -a", "port -a", "info"):  # fmt: skip
        times = [bench.timed([*bench.rl, *words.split()])] if words.split()[0] in ("start", "rename", "rm", "create") else [
            bench.timed([*bench.rl, *words.split()]) for _ in range(5)]
        bench.row(f"scale: {number} stopped, {words.replace(prefix, 'PREFIX')}", "ms", statistics.median(times), None, None)
        bench.rows[-1]["limit"] = 500
    bench.row(f"scale: {number} stopped, rm -a", "ms", bench.timed([*bench.rl, "rm", "-a"]), None, None)
