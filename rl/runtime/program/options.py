"""The command line of `rl-runtime`: tables of commands and options, and the reader for them.

Options are read as runc and crun do: before the operands, ``--name value`` or ``--name=value``, one dash for one
letter. Source: opencontainers/runtime-tools docs/command-line-interface.md; runc(8), crun(1).
"""

from __future__ import annotations

from rl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    #: (names, kind: flag | value | list | int | count, what the value is, help)
    Option = tuple[str, str, str, str]

GLOBAL: tuple[Option, ...] = (
    ("--root", "value", "DIR", "Where the state of containers is kept (default $XDG_RUNTIME_DIR/rl-runtime)"),
    ("--log", "value", "FILE", "Append errors and warnings to this file too"),
    ("--log-format", "value", "FORMAT", "text (default) or json"),
    ("--debug", "flag", "", "Show tracebacks of internal errors"),
    ("--systemd-cgroup", "flag", "", "Cgroups are scopes of systemd, cgroupsPath is slice:prefix:name"),
    ("--cgroup-manager", "value", "NAME", "cgroupfs (default), systemd or disabled"),
    ("--rootless", "value", "WHEN", "true, false or auto (default): whether limits that cannot be set are forgiven"),
    ("-v --version", "flag", "", "Show the version"),
    ("-h --help", "flag", "", "Show this help"),
)

_BUNDLE = ("-b --bundle", "value", "DIR", "The bundle (default: the working directory)")
_CREATE: tuple[Option, ...] = (
    _BUNDLE,
    ("--console-socket", "value", "PATH", "Socket that gets the master of the container's terminal"),
    ("--pid-file", "value", "FILE", "Write the process id of the container to this file"),
    ("--no-pivot", "flag", "", "Do not use pivot_root, for hosts whose root is a ramfs"),
    ("--no-new-keyring", "flag", "", "Keep the session keyring of the caller"),
    ("--preserve-fds", "int", "N", "Pass N further descriptors, from 3 on, after those of $LISTEN_FDS"),
)

LIMITS: tuple[Option, ...] = (
    ("--blkio-weight", "int", "N", "I/O weight, 10 to 1000"),
    ("--cpu-period", "int", "USEC", "CPU bandwidth period"),
    ("--cpu-quota", "int", "USEC", "CPU bandwidth per period"),
    ("--cpu-burst", "int", "USEC", "CPU bandwidth that may be saved up"),
    ("--cpu-share", "int", "N", "CPU weight relative to others, 2 to 262144"),
    ("--cpu-rt-period", "int", "USEC", "Real-time bandwidth period (cgroup v1 only)"),
    ("--cpu-rt-runtime", "int", "USEC", "Real-time bandwidth (cgroup v1 only)"),
    ("--cpu-idle", "int", "N", "1: run only when the CPU is idle"),
    ("--cpuset-cpus", "value", "LIST", "CPUs to run on"),
    ("--cpuset-mems", "value", "LIST", "Memory nodes to allocate from"),
    ("--memory", "int", "BYTES", "Memory limit"),
    ("--memory-reservation", "int", "BYTES", "Memory soft limit"),
    ("--memory-swap", "int", "BYTES", "Limit of memory and swap together; -1: unlimited"),
    ("--pids-limit", "int", "N", "Number of processes"),
)

#: name: (usage of the operands, least and greatest number of them, options, help)
COMMANDS: dict[str, tuple[str, int, int | None, tuple[Option, ...], str]] = {
    "create": ("ID", 1, 1, _CREATE, "Make a container that waits for start"),
    "start": ("ID", 1, 1, (), "Run the command of a created container"),
    "run": (
        "ID", 1, 1,
        (*_CREATE, ("-d --detach", "flag", "", "Return when the command runs"),
         ("--keep", "flag", "", "Do not delete the container when it ends")),
        "Create a container, start it, wait for its end and delete it",
    ),
    "state": ("ID", 1, 1, (), "Print the state of a container as JSON"),
    "kill": (
        "ID [SIGNAL]", 1, 2, (("-a --all", "flag", "", "Signal all processes of the container"),),
        "Send a signal (default SIGTERM) to a container's init",
    ),
    "delete": (
        "ID", 1, 1, (("-f --force", "flag", "", "Kill it first, and do not mind if there is none"),),
        "Remove what a stopped container has left",
    ),
    "exec": (
        "ID COMMAND [ARGUMENT...]", 1, None,
        (
            ("--console-socket", "value", "PATH", "Socket that gets the master of the process's terminal"),
            ("--cwd", "value", "DIR", "Working directory"),
            ("-e --env", "list", "NAME=VALUE", "Set an environment variable"),
            ("-t --tty", "flag", "", "Give the process a terminal"),
            ("-u --user", "value", "UID[:GID]", "User to run as, by numbers"),
            ("-g --additional-gids", "list", "GID", "Further group of the process"),
            ("-p --process", "value", "FILE", "The process as OCI JSON"),
            ("-d --detach", "flag", "", "Return when the command runs"),
            ("--pid-file", "value", "FILE", "Write the process id to this file"),
            ("--process-label", "value", "LABEL", "SELinux label of the process"),
            ("--apparmor", "value", "PROFILE", "AppArmor profile of the process"),
            ("--no-new-privs", "flag", "", "Set no_new_privs"),
            ("-c --cap", "list", "CAP", "Add a capability"),
            ("--preserve-fds", "int", "N", "Pass N further descriptors, from 3 on"),
            ("--cgroup", "value", "PATH", "Run in this cgroup below the container's"),
            ("--ignore-paused", "flag", "", "Do not refuse a paused container"),
        ),
        "Run a further process in a running container",
    ),
    "list": (
        "", 0, 0,
        (("-f --format", "value", "FORMAT", "table (default) or json"), ("-q --quiet", "flag", "", "Print ids only")),
        "List the containers of this --root",
    ),
    "ps": (
        "ID [PS-OPTIONS...]", 1, None, (("-f --format", "value", "FORMAT", "table (default) or json"),),
        "Show the processes of a container",
    ),
    "pause": ("ID", 1, 1, (), "Freeze all processes of a container"),
    "resume": ("ID", 1, 1, (), "Let them go on"),
    "update": (
        "ID", 1, 1, (("-r --resources", "value", "FILE", "linux.resources as JSON; -: standard input"), *LIMITS),
        "Change the limits of a running container",
    ),
    "events": (
        "ID", 1, 1,
        (("--interval", "value", "TIME", "Between two lines, such as 500ms, 5s (default 5s)"),
         ("--stats", "flag", "", "Print one line and end")),
        "Print the resource use of a container, and when it runs out of memory",
    ),
    "features": ("", 0, 0, (), "Print what this runtime can do, as JSON"),
    "spec": (
        "", 0, 0, (_BUNDLE, ("--rootless", "flag", "", "For a user without privileges")),
        "Write a config.json to begin with",
    ),
}


def read(options: tuple[Option, ...], words: list[str], name: str) -> tuple[dict[str, Any], list[str]]:
    """(values by long name without dashes, operands) of *words*; options end at the first operand or ``--``.

    Raises UsageError for an unknown option, or a value that is missing or wrong.
    """
    table = {spelling: option for option in options for spelling in option[0].split()}
    values: dict[str, Any] = {}
    at = 0
    while at < len(words):
        word = words[at]
        if word == "--":
            at += 1
            break
        if not word.startswith("-") or word == "-":
            break
        at += 1
        spelling, equals, value = word.partition("=")
        option = table.get(spelling) or table.get("-" + spelling)  # -bundle is good enough for runc
        if option is None:
            raise UsageError(f"{name}: unknown option {spelling}", f"see: {name} --help")
        key = option[0].split()[-1].lstrip("-")
        if option[1] == "flag":
            values[key] = _flag(value, spelling) if equals else True
            continue
        if not equals:
            if at >= len(words):
                raise UsageError(f"{name}: option {spelling} needs a value", f"{spelling} {option[2]}")
            value = words[at]
            at += 1
        if option[1] == "list":
            values.setdefault(key, []).append(value)
        else:
            values[key] = integer(value, spelling) if option[1] == "int" else value
    return values, words[at:]


def _flag(text: str, spelling: str) -> bool:
    if text not in ("true", "false"):
        raise UsageError(f"option {spelling}={text}: must be true or false")
    return text == "true"


def integer(text: str, spelling: str) -> int:
    """The whole number *text*. Raises UsageError naming *spelling*."""
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"option {spelling}: {text!r} is not a whole number") from None


def help_text(program: str, command: str = "") -> str:
    """What ``--help`` prints."""
    if command:
        usage, _, _, options, line = COMMANDS[command]
        shown = (*options, ("-h --help", "flag", "", "Show this help"))
        return f"Usage: {program} {command} [OPTIONS] {usage}\n\n{line}.\n\nOptions:\n" + _rows(shown)
    verbs = "".join(f"  {name:<10} {entry[4]}\n" for name, entry in COMMANDS.items())
    return (
        f"Usage: {program} [OPTIONS] COMMAND …\n\nAn OCI runtime: makes containers from bundles.\n\n"
        f"Commands:\n{verbs}\nOptions:\n{_rows(GLOBAL)}"
    )


def _rows(options: tuple[Option, ...]) -> str:
    return "".join(f"  {', '.join(names.split()) + ' ' + what:<28} {line}\n" for names, _, what, line in options)
