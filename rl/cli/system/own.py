"""`rl own`: take files back that containers left to subordinate ids."""

from __future__ import annotations

import sys

from rl.cli import output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rl.engine.context import Engine
    from rl.errors import RlError

USAGE = "PATH [PATH...]"
ARGUMENTS = (1, None)
INTERSPERSED = True
OPTIONS = (
    ("--cross-mounts", "flag", "", "Go on below where another file system is mounted, too"),
    ("-n --dry-run", "flag", "", "Change nothing, print what would be changed"),
    ("-v --verbose", "flag", "", "Print each file that is changed, with its former owner"),
)
HELP = """Take files back that containers left to your subordinate ids, with all below: they become yours and can be
removed like any other. Symbolic links are changed themselves, never followed; rl's own storage is left as it is.

Exit codes: 0 all is yours, 125 something belongs to somebody else.
"""

_SHOWN = 20  # errors; the rest is counted
_QUIET_SECONDS, _REPORT_SECONDS = 2.0, 5.0


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.own import own

    dry_run = bool(options.get("dry_run"))
    changed = _printer(dry_run) if dry_run or options.get("verbose") else None
    result = own(
        engine, arguments, dry_run=dry_run, cross_mounts=bool(options.get("cross_mounts")), changed=changed,
        progress=_progress(), failed=_complain(),
    )
    if len(result.errors) > _SHOWN:
        sys.stderr.write(f"… and {len(result.errors) - _SHOWN} more\n")
    return result.errors[-1].exit_code if result.errors else 0


def _complain() -> Callable[[RlError], None]:
    shown = 0

    def complain(error: RlError) -> None:
        nonlocal shown
        shown += 1
        if shown <= _SHOWN:
            output.complain(error)

    return complain


def _printer(dry_run: bool) -> Callable[[str, int, int], None]:
    import getpass
    import grp
    import os

    from rl.errors import printable

    try:
        group = grp.getgrgid(os.getgid()).gr_name
    except KeyError:
        group = str(os.getgid())
    words = "would change" if dry_run else "changed"
    to = f"{getpass.getuser()}:{group}"

    def show(path: str, uid: int, gid: int) -> None:
        output.write(f"{words} ownership of '{printable(path)}' from {uid}:{gid} to {to}\n")

    return show


def _progress() -> Callable[[int], None]:
    """Says on stderr how many files were looked at, when it takes long."""
    import time

    due = time.monotonic() + _QUIET_SECONDS

    def show(count: int) -> None:
        nonlocal due
        now = time.monotonic()
        if now >= due:
            due = now + _REPORT_SECONDS
            sys.stderr.write(f"{count} files so far\n")

    return show
