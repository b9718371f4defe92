"""What `rl info` says about the host: processor, memory, distribution, the programs rl calls."""

from __future__ import annotations

import os
import subprocess

from rl.kernel import proc
from rl.runtime.userns import find_program


def read(path: str) -> str:
    """A file's text, "" if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def memory() -> dict[str, int]:
    """memTotal, memFree, swapTotal, swapFree in bytes (proc(5), meminfo)."""
    fields = {}
    for line in read("/proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        fields[name] = int(rest.split()[0]) * 1024
    names = (("memTotal", "MemTotal"), ("memFree", "MemFree"), ("swapTotal", "SwapTotal"), ("swapFree", "SwapFree"))
    return {key: fields.get(name, 0) for key, name in names}


def cpu_utilization() -> dict[str, float]:
    """Shares of processor time since boot, in percent (proc(5), stat)."""
    words = read("/proc/stat").split("\n", 1)[0].split()[1:]
    times = [int(word) for word in words] + [0] * 4
    total = sum(times[:8]) or 1
    user, system, idle = times[0] + times[1], times[2], times[3]
    shares = {"userPercent": user, "systemPercent": system, "idlePercent": idle}
    return {key: round(100 * value / total, 2) for key, value in shares.items()}


def distribution() -> dict[str, str]:
    """ID, VERSION_ID and VERSION_CODENAME of os-release(5)."""
    fields = {}
    for line in (read("/etc/os-release") or read("/usr/lib/os-release")).splitlines():
        name, _, value = line.partition("=")
        fields[name] = value.strip("\"'")
    return {
        "distribution": fields.get("ID", "unknown"), "version": fields.get("VERSION_ID", "unknown"),
        "codename": fields.get("VERSION_CODENAME", ""),
    }  # fmt: skip


def uptime() -> str:
    """Time since boot, as Podman writes it."""
    seconds = float((read("/proc/uptime") or "0").split()[0])
    hours, rest = divmod(int(seconds), 3600)
    minutes, left = divmod(rest, 60)
    text = f"{hours}h {minutes}m {left:.2f}s" if hours else f"{minutes}m {left:.2f}s"
    return f"{text} (Approximately {seconds / 86400:.2f} days)"


def file_system(path: str) -> str:
    """The type of the file system *path* is on: ext4, btrfs, …"""
    path = os.path.realpath(path) + "/"
    best, kind = "", "unknown"
    for mounted, type in proc.mounts():
        point = mounted.rstrip("/") + "/"
        if path.startswith(point) and len(point) >= len(best):  # of several on one point the last one shows
            best, kind = point, type
    return kind


def program(name: str, version_argument: str = "--version") -> dict[str, str]:
    """executable, package and version of a program on PATH; all "" when there is none."""
    path = name if "/" in name else find_program(name)
    if not path:
        return {"executable": "", "package": "", "version": ""}
    return {"executable": path, "package": package_of(path), "version": _output(path, version_argument)}


def package_of(path: str) -> str:
    """The distribution's package that *path* belongs to, name_version_architecture; "" if none says so."""
    if find_program("dpkg-query"):
        for candidate in (path, os.path.realpath(path)):
            owner = _output("dpkg-query", "--search", candidate).partition(": ")[0]
            if owner and "\n" not in owner:
                return _output("dpkg-query", "--show", "--showformat=${Package}_${Version}_${Architecture}", owner)
    if find_program("rpm"):
        found = _output("rpm", "-qf", path)
        return "" if " " in found else found
    return ""


def _output(*argv: str) -> str:
    """What a program prints; "" when it fails or takes longer than 5 seconds."""
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
