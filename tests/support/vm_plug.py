"""Rounds of pulling the plug: a machine works, loses its power, starts again and looks whether everything is whole.

Runs in a thread beside all other tests, from the first one on, and gives way to them: they wait a lot.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import tarfile
import threading
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


class PlugRounds(threading.Thread):
    """The rounds; ``reports`` has what the machine found after each start, ``failure`` why there are no more."""

    def __init__(self, directory: Path) -> None:
        super().__init__(daemon=True)
        self.directory = directory
        self.base: vm_image.Base
        self.reports: list[dict[str, Any]] = []
        self.failure = ""
        self._over = threading.Event()

    def run(self) -> None:
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 5)  # a thread has its own; its children inherit it
            self.base = vm_image.base()
            registry, layers = make_registry(self.directory)
            lab = vm_image.lab_disk(self.directory, {"registry": registry, "layers.json": layers})
            disk = vm_image.overlay(self.directory / "disk.qcow2", self.base.disk)
            self._rounds(disk, lab)
        except BaseException as error:  # told by the test that asks for the result
            self.failure = f"{type(error).__name__}: {error}"

    def _rounds(self, disk: Path, lab: Path) -> None:
        moments = random.Random(SEED)
        for number in range(ROUNDS + 1):
            with self._machine(number, disk, lab) as machine:
                channel = machine.root_channel
                request = {"seed": SEED + number, "number": number, "final": number == ROUNDS}
                channel.send(request)
                channel.wait(lambda channel=channel: channel.reports or self._over.is_set(), _BOOT)
                if self._over.is_set():
                    return
                if not channel.reports:
                    raise MachineError(f"round {number}: no report\n{machine.tail()}")
                self.reports.append(channel.reports[0])
                if number < ROUNDS:
                    # The moment is a matter of luck on purpose: seeded, but relative to what an emulator takes its time for.
                    self._over.wait(moments.uniform(0.2, 6))

    @contextmanager
    def _machine(self, number: int, disk: Path, lab: Path) -> Iterator[Machine]:
        machine = Machine(self.directory / f"round-{number}", self.base, disk, lab, init="/srv/lab/plug.py", memory=1024, cpus=1)
        try:
            yield machine
        finally:
            machine.kill()  # SIGKILL: what the machine had not written is gone

    def stop(self) -> None:
        """End now, wherever it is."""
        self._over.set()
        self.join(60)
