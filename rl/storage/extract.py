"""One blob into one new directory, verified. Called by rl.storage.unpack, inside the user namespace."""

from __future__ import annotations

import os
import time

from rl.config.model import LayerInfo
from rl.errors import VerificationError
from rl.runtime import userns
from rl.storage.apply import MAX_ENTRIES, Applier
from rl.storage.inflate import Inflater
from rl.storage.layers import hex_of
from rl.storage.tarstream import TarStream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_PROGRESS_SECONDS = 0.1
SINGLE = "single"


class UnpackedLayer(LayerInfo):
    """What unpacking tells beyond the record: device nodes that a user namespace may not make."""

    skipped: int


def extract(
    blob: str, diff_id: str, target: str, progress: Callable[[int, int], None] | None = None,
    max_entries: int = MAX_ENTRIES, close_in_child: tuple[int, ...] = (),
) -> UnpackedLayer:
    """Unpack *blob* into the new directory *target* and verify *diff_id*. Inside the user namespace.

    Raises VerificationError for a wrong digest, a damaged or hostile archive; RlError for the disk.
    """
    hex_of(diff_id)
    algorithm, _, expected = diff_id.partition(":")
    os.mkdir(target, 0o755)
    umask = os.umask(0)
    try:
        inflater = Inflater(blob, algorithm, close_in_child)
        applier = Applier(target, userns.current_mode() == SINGLE, max_entries)
        try:
            _apply_all(applier, inflater, progress)
            digest, _ = inflater.finish()
        finally:
            applier.close()
            inflater.close()
    finally:
        os.umask(umask)
    if digest != expected:
        raise VerificationError(
            f"layer {diff_id[:19]}: its content has the digest {algorithm}:{digest[:12]}",
            "the image is damaged or was tampered with: pull it again, from where you trust",
        )
    return {"diff_id": diff_id, "size": applier.size, "entries": applier.entries, "skipped": applier.skipped}


def _apply_all(applier: Applier, inflater: Inflater, progress: Callable[[int, int], None] | None) -> None:
    due = time.monotonic() + _PROGRESS_SECONDS

    def tick() -> None:
        nonlocal due
        if progress and time.monotonic() > due:
            due = time.monotonic() + _PROGRESS_SECONDS
            progress(*inflater.position())

    stream = TarStream(inflater.fd, tick if progress else None)
    try:
        while (entry := stream.next()) is not None:
            applier.apply(stream, entry)
        applier.finish()
    except VerificationError:
        inflater.check()  # damaged compression explains a damaged archive better than its consequences
        raise


