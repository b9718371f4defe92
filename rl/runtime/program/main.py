"""`rl-runtime`: from sys.argv to one command, and from what it raises to one message and an exit code.

Called by helpers/rl-runtime. The exit codes are runc's: 1 for an error (255 for `exec`), else the container's own.
"""

from __future__ import annotations

import posix as os  # as rl.kernel.proc
import sys

from rl.errors import RlError, UsageError
from rl.runtime.program import options as o

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from rl.runtime.program.store import Store

NAME = "rl-runtime"
SPECIFICATION = "1.2.0"


class Program:
    """The global options, and where messages go."""

    __slots__ = ("debug", "log", "log_format", "options", "stage")

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}
        self.debug = False
        self.log = ""
        self.log_format = "text"
        self.stage = ""  # the command, for messages

    def configure(self, options: dict[str, Any]) -> None:
        """Take the global *options*. Raises UsageError."""
        self.options = options
        self.debug = bool(options.get("debug"))
        self.log = options.get("log", "")
        self.log_format = options.get("log-format", "text")
        if self.log_format not in ("text", "json"):
            raise UsageError(f"--log-format {self.log_format!r} is not known", "use text or json")
        if options.get("rootless", "auto") not in ("auto", "true", "false"):
            raise UsageError(f"--rootless {options['rootless']!r} is not known", "use auto, true or false")

    def store(self) -> Store:
        """The containers below --root."""
        from rl.runtime.program.store import Store, default_root

        environ = {"XDG_RUNTIME_DIR": os.environ.get(b"XDG_RUNTIME_DIR", b"").decode(errors="surrogateescape")}
        root: str = self.options.get("root") or default_root(environ)
        return Store(root if root.startswith("/") else f"{os.getcwd()}/{root}")

    @property
    def cgroup_manager(self) -> str:
        """cgroupfs, systemd or disabled."""
        if self.options.get("systemd-cgroup"):
            return "systemd"
        name: str = self.options.get("cgroup-manager", "cgroupfs")
        if name not in ("cgroupfs", "systemd", "disabled"):
            raise UsageError(f"--cgroup-manager {name!r} is not known", "use cgroupfs, systemd or disabled")
        return name

    def warn(self, text: str) -> None:
        """A message that is no failure."""
        self._say("warning", text)

    def fail(self, error: BaseException) -> None:
        """The message of what ended the command."""
        if self.debug:
            import traceback

            traceback.print_exception(error)
        if isinstance(error, RlError):
            text = error.message + (f" (hint: {error.hint})" if error.hint else "")
        elif isinstance(error, OSError):
            text = (f"{error.filename}: " if error.filename else "") + str(error.strerror or error)
        else:
            text = f"internal error: {type(error).__name__}: {error}"
        self._say("error", f"{self.stage} failed: {text}" if self.stage else text)

    def _say(self, level: str, text: str) -> None:
        from rl.runtime.program.store import now

        if not text.isprintable():  # it may quote any bundle: one line, and no sequences for the terminal
            text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
        line = f"{NAME}: {text}" if level == "error" else f"{NAME}: {level}: {text}"
        try:
            os.write(2, f"{line}\n".encode(errors="surrogateescape"))
        except OSError:
            pass
        if not self.log:
            return
        if self.log_format == "json":
            from rl.config.jsonio import dumps

            entry = dumps({"level": level, "msg": text, "time": now()})
        else:
            quoted = text.replace("\\", "\\\\").replace('"', '\\"')
            entry = f'time="{now()}" level={level} msg="{quoted}"'
        try:
            fd = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            try:
                os.write(fd, (entry + "\n").encode(errors="surrogateescape"))
            finally:
                os.close(fd)
        except OSError as error:
            os.write(2, f"{NAME}: write {self.log}: {error.strerror}\n".encode())


def command_of(name: str) -> Callable[[Program, dict[str, Any], list[str]], int]:
    """The function behind a command; imports only its module."""
    if name in ("create", "run"):
        from rl.runtime.program import creating

        return creating.COMMANDS[name]
    if name in ("start", "kill", "delete"):
        from rl.runtime.program import lifecycle

        return lifecycle.COMMANDS[name]
    if name == "exec":
        from rl.runtime.program import executing

        return executing.exec_
    if name in ("pause", "resume", "update", "events"):
        from rl.runtime.program import control

        return control.COMMANDS[name]
    from rl.runtime.program import reports

    return reports.COMMANDS[name]


def _run(program: Program, argv: list[str]) -> int:
    options, words = o.read(o.GLOBAL, argv, NAME)
    program.configure(options)
    if options.get("version"):
        from rl import __version__

        print(f"{NAME} version {__version__}\nspec: {SPECIFICATION}")
        return 0
    if options.get("help") or not words:
        sys.stdout.write(o.help_text(NAME))
        return 0
    name = words[0]
    if name == "help":
        sys.stdout.write(o.help_text(NAME, words[1] if words[1:2] and words[1] in o.COMMANDS else ""))
        return 0
    if name not in o.COMMANDS:
        raise UsageError(f"no such command: {name}", f"see: {NAME} --help")
    usage, least, most, table, _ = o.COMMANDS[name]
    values, operands = o.read((*table, ("-h --help", "flag", "", "")), words[1:], f"{NAME} {name}")
    if values.get("help"):
        sys.stdout.write(o.help_text(NAME, name))
        return 0
    if len(operands) < least or (most is not None and len(operands) > most):
        raise UsageError(f"{name}: wrong number of arguments", f"usage: {NAME} {name} [OPTIONS] {usage}")
    program.stage = name
    return command_of(name)(program, values, operands)


def main(argv: list[str] | None = None) -> NoReturn:
    """Entry point; ends the process."""
    program = Program()
    try:
        code = _run(program, sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        code = 141
    except BaseException as error:
        program.fail(error)
        code = 255 if program.stage == "exec" else 1
    os._exit(code & 0xFF)
