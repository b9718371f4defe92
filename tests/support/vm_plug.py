"""Rounds of pulling the plug: a machine works, loses its power, starts again and looks whether everything is whole.

Runs beside all other tests, from the first one on, and gives way to them: they wait a lot.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support import vm_image
from support.images import busybox_layer
from support.registry import Registry
from support.registry import layer as tar_layer
from support.vm_machine import Machine, MachineError

ROUNDS = 20
SEED = 20260131  # of what is pulled and run, and of when the plug is pulled
_BOOT = 240.0  # seconds for a start, the look and a pull, emulated and on a busy host


def make_registry(directory: Path) -> tuple[Path, Path]:
    """(a registry's storage with three images, layers.json: the checksum of every file of every layer by diff id)."""
    base = busybox_layer(directory / "base.tar").read_bytes()
    pool = random.Random(1)
    layers: dict[str, dict[str, str]] = {}
    with Registry(directory) as registry:
        for name in ("one", "two", "three"):
            files = {f"data/{name}-{n}": pool.randbytes(pool.choice([10, 3000, 40_000])) for n in range(90)}
            big = {f"big-{name}": pool.randbytes(2 << 20)}
            sums = "".join(f"{hashlib.sha256(data).hexdigest()}  /{path}\n" for path, data in {**files, **big}.items())
            stack = [base, tar_layer(files), tar_layer({**big, "sums": sums.encode()})]
            image = registry.push(stack, f"{name}:latest", config={"Cmd": ["sh"]})
            layers |= {diff[7:]: _checksums(tar) for diff, tar in zip(image.diff_ids, stack, strict=True)}
        data = registry.directory / "data"
    (directory / "layers.json").write_text(json.dumps(layers))
    return data, directory / "layers.json"


def _checksums(tar: bytes) -> dict[str, str]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        return {
            member.name: hashlib.sha256(archive.extractfile(member).read()).hexdigest()  # type: ignore[union-attr]
            for member in archive
            if member.isfile()
        }


class PlugRounds:
    """The rounds, in a process of their own: tests clone this one, which a thread in it could make hang."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._process = subprocess.Popen(
            ["nice", "-n", "5", sys.executable, "-m", "support.vm_plug", str(directory)],
            cwd=Path(__file__).resolve().parents[1], stdout=subprocess.DEVNULL,
        )

    def reports(self, seconds: float) -> list[dict[str, Any]]:
        """What the machine found after each start. Raises MachineError if there was no more to be had."""
        self._process.wait(seconds)
        result = json.loads((self.directory / "result.json").read_text())
        if result["failure"]:
            raise MachineError(result["failure"])
        reports: list[dict[str, Any]] = result["reports"]
        return reports

    def stop(self) -> None:
        """End now, wherever it is; the machine ends with its maker."""
        self._process.kill()
        self._process.wait()


def _rounds(directory: Path, reports: list[dict[str, Any]]) -> None:
    base = vm_image.base()
    registry, layers = make_registry(directory)
    lab = vm_image.lab_disk(directory, {"registry": registry, "layers.json": layers})
    disk = vm_image.overlay(directory / "disk.qcow2", base.disk)
    moments = random.Random(SEED)
    for number in range(ROUNDS + 1):
        with _machine(directory / f"round-{number}", base, disk, lab) as machine:
            channel = machine.root_channel
            channel.send({"seed": SEED + number, "number": number, "final": number == ROUNDS})
            channel.wait(lambda channel=channel: channel.reports, _BOOT)
            if not channel.reports:
                raise MachineError(f"round {number}: no report\n{machine.tail()}")
            reports.append(channel.reports[0])
            if number < ROUNDS:
                # The moment is a matter of luck on purpose: seeded, but relative to what an emulator takes its time for.
                time.sleep(moments.uniform(0.2, 6))


@contextmanager
def _machine(directory: Path, base: vm_image.Base, disk: Path, lab: Path) -> Iterator[Machine]:
    machine = Machine(directory, base, disk, lab, init="/srv/lab/plug.py", memory=1024, cpus=1)
    try:
        yield machine
    finally:
        machine.kill()  # SIGKILL: what the machine had not written is gone


def main(directory: Path) -> None:
    reports: list[dict[str, Any]] = []
    failure = ""
    try:
        _rounds(directory, reports)
    except BaseException as error:  # told by the test that asks for the result
        failure = f"{type(error).__name__}: {error}"
    (directory / "result.json").write_text(json.dumps({"reports": reports, "failure": failure}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
