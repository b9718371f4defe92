"""What a comparison is made of: pairs of commands in turn, medians, rows, and the table of them."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STORAGE_CONF = '[storage]\ndriver = "overlay"\n'
# keyring: Podman makes one for each container, and a user has no more than 200 (rl goes on without)
CONTAINERS_CONF = '[containers]\nkeyring = false\n[engine]\ncgroup_manager = "cgroupfs"\nruntime = "crun"\nevents_logger = "file"\n'


class Bench:
    """One comparison: how rows are measured, and what came out."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.rl = [options.rl]
        self.podman = ["podman"]
        self.rows: list[dict[str, object]] = []
        self.work = Path(tempfile.mkdtemp(prefix="rl-bench-"))
        self.registry: subprocess.Popen[bytes] | None = None
        self.port = 0

    def prepare(self) -> None:
        config = Path.home() / ".config/containers"
        config.mkdir(parents=True, exist_ok=True)
        for name, text in (("storage.conf", STORAGE_CONF), ("containers.conf", CONTAINERS_CONF)):
            if not (config / name).exists():
                (config / name).write_text(text)
        root = self.work / "root/bin"
        root.mkdir(parents=True)
        shutil.copy(shutil.which("busybox") or "/bin/busybox", root / "busybox")
        for applet in ("sh", "true", "sleep", "cat", "echo", "wc", "head"):
            (root / applet).symlink_to("busybox")
        tar = self.work / "root.tar"
        self.quiet(["tar", "-C", str(root.parent), "--owner=0", "--group=0", "-cf", str(tar), "."])
        for tool in (self.rl, self.podman):
            self.quiet([*tool, "import", str(tar), "bench:latest"])

    def quiet(self, command: list[str], check: bool = True) -> None:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if check and done.returncode:
            sys.exit(f"Error: {' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")

    def has(self, verb: str) -> bool:
        """Whether the rl that is measured has the command at all: it may be an older one."""
        return not subprocess.run([*self.rl, verb, "--help"], stdin=subprocess.DEVNULL, capture_output=True).returncode

    def wanted(self, name: str) -> bool:
        return self.options.only in name

    def timed(self, command: list[str]) -> float:
        began = time.perf_counter()
        self.quiet(command)
        return (time.perf_counter() - began) * 1000

    def pair(self, name: str, budget: float, arguments: list[str], runs: int = 0) -> None:
        if not self.wanted(name):
            return
        ours: list[float] = []
        theirs: list[float] = []
        for number in range((runs or self.options.runs) + 2):
            a, b = self.timed([*self.rl, *arguments]), self.timed([*self.podman, *arguments])
            if number >= 2:  # the first two warm up
                ours.append(a)
                theirs.append(b)
        self.row(name, "ms", statistics.median(ours), statistics.median(theirs), budget)

    def timed_all(self, commands: list[list[str]]) -> float:
        """Without pipes: what `create` leaves running would keep them open."""
        began = time.perf_counter()
        null = subprocess.DEVNULL
        for command in commands:
            subprocess.run(command, stdin=null, stdout=null, stderr=null, check=True)  # a timeout would poll
        return (time.perf_counter() - began) * 1000

    def row(self, name: str, unit: str, ours: float, theirs: float | None, budget: float | None) -> None:
        ratio = ours / theirs if theirs else None
        self.rows.append({"name": name, "unit": unit, "rl": round(ours, 2), "podman": theirs and round(theirs, 2),
                          "ratio": ratio and round(ratio, 3), "budget": budget})
        print(f"  {name}: rl {ours:.1f} {unit}" + (f", peer {theirs:.1f} {unit}" if theirs else ""), flush=True)

    def median(self, command: list[str]) -> float:
        return statistics.median(self.timed(command) for _ in range(self.options.runs))

    def start_registry(self) -> int:
        """A registry of the run's own, started by the first row that needs it; its port."""
        import socket

        if self.registry:
            return self.port

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = port = int(probe.getsockname()[1])
        config = self.work / "registry.yml"
        config.write_text(
            f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {self.work}/registry}}}}\n"
            f"http: {{addr: '127.0.0.1:{port}'}}\n"
        )
        self.registry = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return port
            time.sleep(0.05)
        sys.exit("Error: docker-registry does not answer")

    def clean(self) -> None:
        if self.registry:
            self.registry.terminate()
            self.registry.wait()
        for tool in (self.rl, self.podman):
            for name in ["bench-exec", *(f"bench-{index}" for index in range(20))]:
                subprocess.run([*tool, "rm", "-f", "-t", "0", name], capture_output=True)
        shutil.rmtree(self.work, ignore_errors=True)

    def report(self) -> None:
        version = subprocess.run([*self.podman, "--version"], capture_output=True, text=True).stdout.strip()
        print(f"\n{version}, Linux {os.uname().release}, {os.cpu_count()} CPUs, median of {self.options.runs}\n")
        print("| what | rl | peer | ratio | budget | |\n|---|---|---|---|---|---|")
        for row in self.rows:
            limit, ratio, budget = row.get("limit"), row["ratio"], row["budget"]
            ok = "" if budget is None and limit is None else "ok" if (
                (budget is not None and ratio is not None and ratio <= budget) or (limit is not None and row["rl"] <= limit)
            ) else "over"
            goal = f"≤ {budget} ×" if budget else f"≤ {limit} {row['unit']}" if limit else ""
            theirs = f"{row['podman']} {row['unit']}" if row["podman"] else ""
            print(f"| {row['name']} | {row['rl']} {row['unit']} | {theirs} | {ratio or ''} | {goal} | {ok} |")
        Path(self.options.json).write_text(json.dumps({"peer": version, "runs": self.options.runs, "rows": self.rows}, indent=1))


def pss(pid: int) -> float:
    """Proportional set size of a process in MB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(pid)


def peak_memory(command: list[str]) -> float:
    """Run *command*; the peak resident memory, in MB, of the largest of its processes."""
    runner = "import resource,subprocess,sys;code=subprocess.call(sys.argv[1:],stdout=-3,stderr=-3)\n" \
             "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss/1024);sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", runner, *command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"Error: {' '.join(command)}: exit code {done.returncode}")
    return float(done.stdout)
