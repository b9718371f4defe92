"""What several verbs share: names from --all, --latest, --cidfile and --filter, and many names with some that fail."""

from __future__ import annotations

from rl.errors import RlError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from rl.engine.context import Engine

LATEST = ("-l --latest", "flag", "", "Take the container created last instead of a name")
CIDFILE = ("--cidfile", "array", "PATH", "Read a container's id from this file")


def filter_option(verb: str, short: bool = True) -> tuple[str, str, str, str]:
    """The row of ``--filter`` for a verb that works on several containers: *verb* is what it does to them."""
    return ("-f --filter" if short else "--filter", "array", "KEY=VALUE",
            f"{verb} the containers that fit, see `rl ps --filter`")


def names(engine: Engine, options: dict[str, Any], arguments: list[str]) -> list[str]:
    """The containers that arguments, --cidfile and --latest name; none with --all or --filter alone.

    Raises UsageError where they name none or contradict each other.
    """
    everything, latest, cidfiles = bool(options.get("all")), options.get("latest"), options.get("cidfile", [])
    if cidfiles and (everything or latest):
        raise UsageError("--all, --latest, and --cidfile cannot be used together", "use one of them")
    if everything and latest:
        raise UsageError("--all and --latest cannot be used together", "leave one of them out")
    if everything and arguments:
        raise UsageError("no arguments are needed with --all", "leave --all or the names out")
    if latest and arguments:
        raise UsageError("--latest and containers cannot be used together", "leave --latest or the names out")
    if latest:
        from rl.engine.selection import latest as newest

        return [newest(engine)]
    found = arguments + [_read_cidfile(path, options) for path in cidfiles]
    found = [name for name in found if name]
    if not found and not everything and not options.get("filter") and not cidfiles:
        raise UsageError("you must provide at least one name or id", "`rl ps -a` lists all containers")
    return found


def one(engine: Engine, options: dict[str, Any], arguments: list[str]) -> tuple[str, list[str]]:
    """The container (the first argument, or the latest) and the arguments after it."""
    if options.get("latest"):
        from rl.engine.selection import latest

        return latest(engine), arguments
    if not arguments:
        raise UsageError("you must provide the name or id of a container", "`rl ps -a` lists all containers")
    return arguments[0], arguments[1:]


def targets(
    engine: Engine, options: dict[str, Any], arguments: list[str], states: frozenset[str] | None = None
) -> tuple[list[str], bool]:
    """(containers, whether --all is all that was said) for a verb that takes --filter instead of names.

    --filter alone chooses among containers in *states* (None: any); with --latest, it has to fit that one.
    """
    if options.get("filter") and arguments:
        raise UsageError("--filter takes no arguments", "leave --filter or the names out")
    found = names(engine, options, arguments)
    if not options.get("filter"):
        return found, bool(options.get("all"))
    from rl.engine.selection import chosen

    fitting = chosen(engine, options["filter"], states)
    return [name for name in fitting if not options.get("latest") or name in found], False


def filtered(engine: Engine, options: dict[str, Any], found: list[str], all: bool) -> list[str]:
    """*found* and the containers that --filter chooses: among those that run, or *all*."""
    if not options.get("filter"):
        return found
    from rl.engine import containers
    from rl.engine.selection import chosen

    return found + [each for each in chosen(engine, options["filter"], None if all else containers.LIVE)
                    if each not in found]


def _read_cidfile(path: str, options: dict[str, Any]) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip().split("\n")[0]
    except FileNotFoundError:
        if options.get("ignore"):
            return ""
        hint = "name the containers instead, or, where the verb has it, add --ignore"
        raise UsageError(f"reading CIDFile: open {path}: no such file or directory", hint) from None
    except OSError as error:
        raise UsageError(f"reading CIDFile: open {path}: {error.strerror}") from None


def with_password(creds: str) -> str:
    """--creds USER[:PASSWORD], asked for on a terminal where it is left out."""
    import sys

    if ":" in creds or not sys.stdin.isatty():
        return creds
    from getpass import getpass

    return f"{creds}:{getpass('Password: ')}"


def transfer(options: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """What pull and push tell the engine of a transfer: the options *keys*, and --creds and --retry-delay as read."""
    how = {key: options[key] for key in keys if key in options}
    if "creds" in options:
        how["creds"] = with_password(options["creds"])
    if "retry_delay" in options:
        from rl.engine.times import duration_ns

        how["retry_delay"] = duration_ns(options["retry_delay"]) / 1e9
    return how


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
