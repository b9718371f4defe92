"""`rl system check`."""

from __future__ import annotations

from rl.cli import output
from rl.errors import RlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.check import Damage
    from rl.engine.context import Engine

USAGE = ""
ARGUMENTS = (0, 0)
INTERSPERSED = True
OPTIONS = (
    ("-f --force", "flag", "", "Repair, and remove images that cannot be repaired with the containers that use them"),
    ("-m --max", "value", "DURATION", "Age from which unused layers and blobs count as damage (default 24h)"),
    ("-q --quick", "flag", "", "Do not read the contents of blobs and layers"),
    ("-r --repair", "flag", "", "Repair: fetch and unpack again what is broken; remove an image where that fails"),
)
HELP = """Check records, names, the digests of all blobs, every file of every layer, containers and volumes.

Exit codes: 0 all is well, or was repaired; 125 there is damage.
"""
#: What one repair lays open (a layer can be compared once its blob is whole) the next round repairs.
_ATTEMPTS = 4


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.check import MAX_AGE, check
    from rl.engine.times import duration_ns

    quick = bool(options.get("quick"))
    max_age = duration_ns(options["max"]) / 1e9 if "max" in options else MAX_AGE
    force = bool(options.get("force"))
    for _ in range(_ATTEMPTS):
        damages = check(engine, quick=quick, max_age=max_age)
        if not damages:
            return 0
        for damage in damages:
            lines = "".join(f"\t* {line}\n" for line in damage.problems)
            output.write(f"Damaged {damage.kind} {damage.what}:\n{lines}")
        if not options.get("repair") and not force:
            raise RlError("damage detected in local storage", "rl system check --repair")
        if not _repair(engine, damages, force):
            break
    raise RlError("damage in local storage still present after repair attempt", "see above why, and what to do")


def _repair(engine: Engine, damages: list[Damage], force: bool) -> bool:
    """Whether anything was repaired."""
    from rl.engine.repair import repair

    some = False
    for damage, done in repair(engine, damages, force=force):
        if isinstance(done, RlError):
            output.complain(type(done)(f"{damage.kind} {damage.what}: {done.message}", done.hint))
        else:
            output.write(f"Repaired {damage.kind} {damage.what}: {done}\n")
            some = True
    return some
