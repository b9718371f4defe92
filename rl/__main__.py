"""The program `rl`: from sys.argv to one verb, and from what it raises to one message and an exit code.

What is imported here is paid for by every command (docs/architecture.md, "Start-up rules").
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from rl.engine.prefork import Handle


def main() -> NoReturn:
    """Entry point of the console script; ends the process."""
    _end(_guarded(sys.argv[1:]))


def _guarded(argv: list[str]) -> int:
    """The exit code of *argv*, whatever it raises."""
    try:
        return _command(argv)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return _quiet_stdout(141)
    except SystemExit as request:  # click, and input() of a login
        return request.code if isinstance(request.code, int) else 0 if request.code is None else 125
    except BaseException as error:
        return report(error)


def report(error: BaseException) -> int:
    """Print *error* as the user should see it; returns its exit code."""
    from rl.errors import RlError

    if os.environ.get("RL_DEBUG"):
        import traceback

        traceback.print_exception(error)
    if isinstance(error, RlError):
        text, code = f"Error: {error.message}\n", error.exit_code
        if error.hint:
            text += f"hint: {error.hint}\n"
    elif isinstance(error, MemoryError):
        text, code = "Error: out of memory\n", 125
    elif isinstance(error, OSError):
        name = f"{error.filename}: " if error.filename else ""
        text, code = f"Error: {name}{error.strerror or error}\nhint: RL_DEBUG=1 shows where\n", 125
    else:
        text = f"Error: internal error: {type(error).__name__}: {error}\n"
        text, code = text + "hint: this is a bug in rl; RL_DEBUG=1 shows the traceback to report\n", 125
    _flush(sys.stdout)
    try:
        sys.stderr.write(text)
    except OSError:
        pass
    return code


def _command(argv: list[str]) -> int:
    handle = _prefork(argv)
    if len(argv) == 1 and argv[0] in ("--version", "-v"):
        from rl import __version__

        sys.stdout.write(f"rl version {__version__}\n")
        return 0
    if "_RL_COMPLETE" in os.environ:
        from rl.cli.clicked import complete

        return complete()
    return _dispatch(argv, handle)


def _prefork(argv: list[str]) -> Handle | None:
    """Fork the monitor-to-be of `rl run` before anything heavy; it works while we parse and resolve.

    Only for the plain form: help, and options that change where the state is, take the slow way.
    """
    at = 1 if argv[:1] == ["container"] else 0
    if argv[at : at + 1] != ["run"] or len(argv) < at + 2:
        return None
    for word in argv[at + 1 :]:
        if word == "--help" or word.startswith(("--root", "--runroot")):
            return None
    from rl.engine.prefork import prefork

    return prefork()


def _dispatch(argv: list[str], handle: Handle | None) -> int:
    from rl.cli import parse

    try:
        given, words = parse.read((parse.GLOBAL,), argv, interspersed=False)
    except parse.Refused:
        words, given = [], {}
    if not words:
        return _slow(argv)
    from rl.cli.verbs import find

    module_name, count = find(words)
    if not module_name:
        return _slow(argv)
    verb = load(module_name)
    try:
        options, arguments = parse.read((verb.OPTIONS, parse.GLOBAL), words[count:], verb.INTERSPERSED)
    except parse.Refused:
        _abandon(handle)
        return _slow(argv)
    return execute(verb, " ".join(words[:count]), given, options, arguments, handle)


def load(name: str) -> Any:
    """The verb's module, by its name below rl.cli."""
    module = f"rl.cli.{name}"
    __import__(module)
    return sys.modules[module]


def execute(
    verb: Any, name: str, given: dict[str, Any], options: dict[str, Any], arguments: list[str], handle: Handle | None = None
) -> int:
    """Call the verb; *given* are the global options from before it, more may be among *options*."""
    from rl.cli import parse

    for row in parse.GLOBAL:
        key = parse.key_of(row[0])
        if key in options and not _owns(verb, key):
            given[key] = options.pop(key)
    try:
        parse.check_count(f"rl {name}", arguments, *verb.ARGUMENTS)
    except BaseException:
        _abandon(handle)
        raise
    from rl.engine.context import Engine

    level = given.get("log_level", "warn")
    if level in ("debug", "trace"):
        os.environ["RL_DEBUG"] = "1"
    engine = Engine.from_environment(os.environ, **given)
    if level not in ("error", "fatal", "panic"):
        engine.warn = _warn
    engine.prefork = handle
    try:
        code: int = verb.run(engine, options, arguments)
    finally:
        _abandon(engine.prefork)
    return code


def _abandon(handle: Handle | None) -> None:
    """Let the monitor-to-be go if nobody took it: `rl run` sets ``engine.prefork`` to None when it does."""
    if handle is not None:
        handle.abandon()


def _owns(verb: Any, key: str) -> bool:
    from rl.cli import parse

    return any(parse.key_of(row[0]) == key for row in verb.OPTIONS)


def _slow(argv: list[str]) -> int:
    """Help, usage errors, and whatever the fast reader did not understand."""
    from rl.cli.clicked import invoke

    return invoke(argv)


def _warn(message: str) -> None:
    _flush(sys.stdout)
    sys.stderr.write(f"Warning: {message}\n")


def _flush(stream: Any) -> bool:
    try:
        if stream is not None:
            stream.flush()
    except (OSError, ValueError):
        return False
    return True


def _quiet_stdout(code: int) -> int:
    """After EPIPE: nothing more may be written to stdout, not even at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    return code


def _end(code: int) -> NoReturn:
    """Leave without the interpreter's tear-down: 3 ms of a short command, and nothing in it is needed."""
    if not _flush(sys.stdout):
        try:
            os.write(2, b"Error: write to standard output failed\n" if code == 0 else b"")
        except OSError:
            pass
        code = code or 125
    _flush(sys.stderr)
    os._exit(code & 0xFF)


if __name__ == "__main__":
    main()
