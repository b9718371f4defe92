"""What several verbs share: names from --latest and --cidfile, and many names with some that fail."""

from __future__ import annotations

from rl.errors import RlError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from rl.engine.context import Engine

LATEST = ("-l --latest", "flag", "", "Take the container created last instead of a name")


def names(engine: Engine, options: dict[str, Any], arguments: list[str]) -> list[str]:
    """The containers that arguments, --cidfile, --latest and --all name.

    Raises UsageError where they name none or contradict each other.
    """
    everything = bool(options.get("all"))
    if everything and (arguments or options.get("latest") or options.get("cidfile")):
        raise UsageError("no arguments are needed with --all", "leave --all or the names out")
    found = arguments + [_read_cidfile(path, options) for path in options.get("cidfile", [])]
    found = [name for name in found if name]
    if options.get("latest"):
        if found:
            raise UsageError("--latest and containers cannot be used together", "leave --latest or the names out")
        from rl.engine.ps import latest

        return [latest(engine)]
    if not found and not everything and not options.get("filter") and not options.get("cidfile"):
        raise UsageError("you must provide at least one name or id", "`rl ps -a` lists all containers")
    return found


def one(engine: Engine, options: dict[str, Any], arguments: list[str]) -> tuple[str, list[str]]:
    """The container (the first argument, or the latest) and the arguments after it."""
    if options.get("latest"):
        from rl.engine.ps import latest

        return latest(engine), arguments
    if not arguments:
        raise UsageError("you must provide the name or id of a container", "`rl ps -a` lists all containers")
    return arguments[0], arguments[1:]


def filtered(engine: Engine, options: dict[str, Any], found: list[str], all: bool) -> list[str]:
    """*found* and the containers that --filter chooses; all of them with --all."""
    if not options.get("filter"):
        return found
    from rl.engine.ps import ps

    rows = ps(engine, all=all, filters=options["filter"])
    return found + [row["Id"] for row in rows if row["Id"] not in found]


def _read_cidfile(path: str, options: dict[str, Any]) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip().split("\n")[0]
    except FileNotFoundError:
        if options.get("ignore"):
            return ""
        hint = "--ignore takes a missing file for a removed container"
        raise UsageError(f"--cidfile {path}: no such file", hint) from None
    except OSError as error:
        raise UsageError(f"--cidfile {path}: {error.strerror}") from None


def report(results: Sequence[tuple[str, RlError | None]], quiet: bool = False) -> int:
    """Print the names that worked and the errors of the others; 0, or the exit code of the last error."""
    from rl.cli import output

    code = 0
    for name, error in results:
        if error is None:
            if not quiet:
                output.write(name + "\n")
        else:
            output.complain(error)
            code = error.exit_code
    return code
