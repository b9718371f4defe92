"""`rl exec`: a further command in a running container."""

from __future__ import annotations

from rl.cli import common
from rl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "CONTAINER COMMAND [ARG...]"
ARGUMENTS = (0, None)
INTERSPERSED = False
COMPLETE = "container"
OPTIONS = (
    ("--cidfile", "value", "PATH", "Take the container whose id is in this file, instead of a name"),
    ("-d --detach", "flag", "", "Run in the background and print the session's id"),
    ("--detach-keys", "value", "KEYS", "Keys that detach (default ctrl-p,ctrl-q); empty: none"),
    ("-e --env", "array", "NAME[=VALUE]", "Set an environment variable; without a value, take the host's"),
    ("--env-file", "list", "PATH", "Read environment variables from a file"),
    ("-i --interactive", "flag", "", "Pass standard input on"),
    common.LATEST,
    ("--no-session", "flag", "", "Keep no record of it: `rl inspect` and `rl events` do not show it"),
    ("--preserve-fd", "list", "FD", "Pass on this descriptor, by the same number"),
    ("--preserve-fds", "value", "N", "Pass on N descriptors after standard error", "uint"),
    ("--privileged", "flag", "", "All capabilities of the container's user namespace"),
    ("-t --tty", "flag", "", "Give the command a terminal"),
    ("-u --user", "value", "USER[:GROUP]", "User to run as, by name or id"),
    ("-w --workdir", "value", "DIR", "Working directory"),
)
HELP = """Run a command in a running container.

The exit code is the command's own; 125: rl failed, 126: the command cannot be invoked, 127: there is no such command.
"""


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.exec import exec_

    name, command = _container(engine, options, arguments)
    if not command:
        raise UsageError("must provide a non-empty command to start an exec session", f"rl exec {name} COMMAND")
    result = exec_(
        engine, name, command, tty=bool(options.get("tty")), interactive=bool(options.get("interactive")),
        detach=bool(options.get("detach")), env=_environment(options), user=options.get("user", ""),
        workdir=options.get("workdir", ""), privileged=bool(options.get("privileged")),
        preserve_fds=options.get("preserve_fds", 0), preserve_fd=options.get("preserve_fd"),
        detach_keys=options.get("detach_keys"), record=not options.get("no_session"),
    )
    if isinstance(result, str):
        from rl.cli import output

        output.write(result + "\n")
        return 0
    return result


def _container(engine: Engine, options: dict[str, Any], arguments: list[str]) -> tuple[str, list[str]]:
    if "cidfile" not in options:
        return common.one(engine, options, arguments)
    if options.get("latest"):
        raise UsageError("--cidfile and --latest cannot be used together", "leave one of them out")
    return common.names(engine, {"cidfile": [options["cidfile"]]}, [])[0], arguments


def _environment(options: dict[str, Any]) -> list[str]:
    """--env-file, then --env, as NAME=VALUE items."""
    if "env" not in options and "env_file" not in options:
        return []
    from rl.engine.spec.environment import environment

    return environment({**options, "tty": False, "http_proxy": False, "unsetenv_all": True}, [])
