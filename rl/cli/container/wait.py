"""`rl wait`: until containers end."""

from __future__ import annotations

from rl.cli import common, output
from rl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "CONTAINER [CONTAINER...]"
ARGUMENTS = (0, None)
INTERSPERSED = True
COMPLETE = "container"
OPTIONS = (
    ("--condition", "list", "STATE", "Wait for this state instead of the end: configured, created, exited, healthy, "
     "initialized, paused, removing, running, stopped, stopping, unhealthy, unknown"),
    ("--exit-first-match", "flag", "", "End with the first container that gets there; print only its exit code"),
    common.filter_option("Wait for"),
    ("--ignore", "flag", "", "A missing container is no error: prints -1"),
    ("-i --interval", "value", "TIME", "Look again at least so often (in ms, or 2s, 1m …); only needed where the file "
     "system tells of no changes"),
    common.LATEST,
)
HELP = """Wait for containers to end and print their exit codes, in the order of the names.

For another state than exited -1 is printed.
"""


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.wait import wait

    if not arguments and not options.get("latest") and not options.get("filter"):
        raise UsageError('"rl wait" requires a name, id, or the "--latest" flag', "`rl ps` lists what runs")
    names, _ = common.targets(engine, options, arguments)
    codes = wait(
        engine, names, condition=options.get("condition"), ignore=bool(options.get("ignore")),
        first=bool(options.get("exit_first_match")), interval=_seconds(options.get("interval", "")),
    )
    output.write("".join([f"{code}\n" for code in codes]))
    return 0


def _seconds(text: str) -> float:
    """A bare number is milliseconds, as in Podman."""
    if not text:
        return 0
    from rl.engine.times import duration_ns

    try:
        seconds = duration_ns(f"{text}ms" if text.isdigit() else text) / 1e9
    except UsageError as error:
        raise UsageError(f'time: invalid duration "{text}"', error.hint) from None
    if seconds <= 0:
        raise UsageError(f'time: invalid duration "{text}": it has to be positive', "such as 250ms")
    return seconds
