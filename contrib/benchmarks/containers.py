"""Rows about containers: run, exec, lists, many at once, monitors, runtimes, output."""

from __future__ import annotations

import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.harness import Bench, pss


def runs(bench: Bench) -> None:
    bench.pair("run --network=none", 0.5, ["run", "--rm", "--network=none", "bench", "true"])
    bench.pair("run, default network", 0.5, ["run", "--rm", "bench", "true"])
    bench.pair("run --network=host", 0.5, ["run", "--rm", "--network=host", "bench", "true"])


def floor(bench: Bench) -> None:
    """What nobody can beat: an empty interpreter, and crun alone on an unpacked root."""
    if bench.wanted("floor"):
        python = Path(bench.rl[0]).read_text().splitlines()[0].removeprefix("#!").strip()
        times = sorted(bench.timed([python, "-c", "pass"]) for _ in range(bench.options.runs))
        bench.row("floor: empty Python interpreter", "ms", times[len(times) // 2], None, None)


def execs(bench: Bench) -> None:
    if not bench.wanted("exec"):
        return
    for tool in (bench.rl, bench.podman):
        bench.quiet([*tool, "run", "-d", "--name", "bench-exec", "--network=none", "bench", "sleep", "1000"])
    bench.pair("exec", 0.4, ["exec", "bench-exec", "true"])
    for tool in (bench.rl, bench.podman):
        bench.quiet([*tool, "rm", "-f", "-t", "0", "bench-exec"])


def listings(bench: Bench, number: int) -> None:
    names = [f"ps -a, {number} containers", f"inspect, {number} containers", f"images, {number} containers"]
    if not any(bench.wanted(name) for name in names):
        return
    for tool in (bench.rl, bench.podman):
        for index in range(number):
            bench.quiet([*tool, "create", "--name", f"bench-{index}", "--network=none", "bench", "true"])
    bench.pair(names[0], 0.8, ["ps", "-a"])
    if number:
        bench.pair(names[1], 0.8, ["inspect", "bench-7"])
    bench.pair(names[2], 0.8, ["images"])
    for tool in (bench.rl, bench.podman):
        if number:
            bench.quiet([*tool, "rm", *(f"bench-{index}" for index in range(number))])


def parallel(bench: Bench, number: int = 32) -> None:
    name = f"{number} × run --rm in parallel"
    if not bench.wanted(name):
        return
    figures: dict[str, list[float]] = {"rl": [], "podman": []}
    for _ in range(3):
        for label, tool in (("rl", bench.rl), ("podman", bench.podman)):
            began = time.perf_counter()
            command = [*tool, "run", "--rm", "--network=none", "bench", "true"]
            running = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(number)]
            failed = [process.communicate()[1].decode() for process in running if process.wait()]
            if failed and label == "rl":
                sys.exit(f"Error: {len(failed)} of {number} parallel runs failed: {failed[0]}")
            figures[label].append((time.perf_counter() - began) * 1000)
    bench.row(name, "ms", statistics.median(figures["rl"]), statistics.median(figures["podman"]), 0.5)


def memory(bench: Bench, number: int = 20) -> None:
    name = f"monitor memory, {number} running"
    if not bench.wanted(name):
        return
    sizes = {}
    for label, tool in (("rl", bench.rl), ("podman", bench.podman)):
        for index in range(number):
            bench.quiet([*tool, "run", "-d", "--name", f"bench-{index}", "--network=none", "bench", "sleep", "1000"])
        time.sleep(0.5)
        pids = [monitor(tool, f"bench-{index}") for index in range(number)]
        sizes[label] = statistics.mean(pss(pid) for pid in pids)
        bench.quiet([*tool, "rm", "-f", "-t", "0", *(f"bench-{index}" for index in range(number))])
    bench.row(name, "MB PSS", sizes["rl"], sizes["podman"], None)
    bench.rows[-1]["limit"] = 3.5


def monitor(tool: list[str], name: str) -> int:
    """The pid of the process that supervises container *name*: the parent of its init."""
    done = subprocess.run([*tool, "inspect", "--format", "{{.State.Pid}}", name], capture_output=True, text=True, check=True)
    status = Path(f"/proc/{done.stdout.strip()}/status").read_text()
    found = re.search(r"PPid:\s*(\d+)", status)
    assert found
    return int(found[1])


def runtimes(bench: Bench) -> None:
    """`rl-runtime` and crun with the same bundle; and what a limit of a million descriptors costs."""
    names = ("rl-runtime run, beside crun", "rl-runtime create, start, delete, beside crun", "rl-runtime run, highest limit of descriptors beside 1024")
    if not any(bench.wanted(name) for name in names):
        return
    bundle = bench.work / "bundle"
    bundle.mkdir()
    (bundle / "rootfs").symlink_to(bench.work / "root")
    for name in ("proc", "sys", "dev"):
        (bench.work / "root" / name).mkdir()
    program = str(Path(bench.rl[0]).with_name("rl-runtime"))
    bench.quiet([program, "spec", "--bundle", str(bundle), *([] if os.getuid() == 0 else ["--rootless"])])
    config = json.loads((bundle / "config.json").read_text())
    config["process"].update(args=["/bin/true"], terminal=False)
    config["ociVersion"] = "1.0.2"  # older ones of crun know no later
    (bundle / "config.json").write_text(json.dumps(config))
    ours, theirs = ([tool, "--root", str(bench.work / tool.rpartition("/")[2])] for tool in (program, "crun"))

    def run(tool: list[str], *before: str) -> list[list[str]]:
        return [[*before, *tool, "run", "--bundle", str(bundle), "bench"]]

    def life(tool: list[str]) -> list[list[str]]:
        return [[*tool, "create", "--bundle", str(bundle), "bench"], [*tool, "start", "bench"], [*tool, "delete", "--force", "bench"]]

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    for name, budget, first, second in (
        (names[0], 3.0, run(ours), run(theirs)), (names[1], 3.0, life(ours), life(theirs)),
        (names[2], 1.1, run(ours, "prlimit", f"--nofile={hard}:{hard}"), run(ours, "prlimit", "--nofile=1024:1024")),
    ):  # fmt: skip
        if bench.wanted(name):
            pairs = [(bench.timed_all(first), bench.timed_all(second)) for _ in range(bench.options.runs + 2)][2:]
            medians = [statistics.median(side) for side in zip(*pairs, strict=True)]
            bench.row(name, "ms", medians[0], medians[1], budget)


def output(bench: Bench) -> None:
    """A container that writes 1 GB to its log, and what of it `logs` gives back while the log may be as long."""
    names = ("write 1 GB to stdout", "logs of 1 GB")
    if not any(bench.wanted(name) for name in names):
        return
    script = "yes 0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopq | head -c 1000000000"
    figures: dict[str, list[list[float]]] = {"rl": [[], []], "podman": [[], []]}
    for _ in range(3):
        for label, tool in (("rl", bench.rl), ("podman", bench.podman)):
            options = ["--log-driver=k8s-file", "--log-opt", "max-size=4gb"]
            bench.quiet([*tool, "run", "-d", "--name", "bench-exec", "--network=none", *options, "bench", "sh", "-c", script])
            began = time.perf_counter()
            bench.quiet([*tool, "wait", "bench-exec"])
            figures[label][0].append((time.perf_counter() - began) * 1000)
            began = time.perf_counter()
            reader = subprocess.Popen([*tool, "logs", "bench-exec"], stdout=subprocess.PIPE)
            assert reader.stdout
            size = 0
            while chunk := reader.stdout.read(1 << 20):
                size += len(chunk)
            figures[label][1].append((time.perf_counter() - began) * 1000)
            if label == "rl" and size != 1_000_000_000:
                sys.exit(f"Error: rl logs gave {size} of 1000000000 bytes")
            bench.quiet([*tool, "rm", "-f", "-t", "0", "bench-exec"])
    for at, budget in ((0, 1.0), (1, None)):
        bench.row(names[at], "ms", *(statistics.median(figures[label][at]) for label in ("rl", "podman")), budget)
