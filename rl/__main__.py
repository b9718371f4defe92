"""The program `rl`: from sys.argv to one verb, and from what it raises to one message and an exit code.

What is imported here is paid for by every command (docs/architecture.md, "Start-up rules").
"""

from __future__ import annotations

import gc
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from rl.engine.prefork import Handle


def main() -> NoReturn:
    """Entry point of the console script; ends the process."""
    gc.set_threshold(100_000)  # a short command has no garbage worth looking for: 1 ms of its imports otherwise
    _open_standard_streams()
    _end(_guarded(sys.argv[1:]))


def _open_standard_streams() -> None:
    """A caller may have closed some of 0, 1 and 2: whatever was opened next would be taken for them."""
    fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    while fd <= 2:
        os.set_inheritable(fd, True)
        if fd:
            setattr(sys, ("stdout", "stderr")[fd - 1], open(fd, "w", closefd=False))
        fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.close(fd)


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
    from rl.errors import RlError, limit_hint, printable

    if os.environ.get("RL_DEBUG"):
        import traceback

        traceback.print_exception(error)
    if isinstance(error, RlError):
        text, code = f"Error: {error.message}\n", error.exit_code
        if error.hint:
            text += f"hint: {error.hint}\n"
    elif isinstance(error, MemoryError):
        text, code = f"Error: out of memory\nhint: {limit_hint(error)}\n", 125
    elif isinstance(error, OSError):
        name = f"{error.filename}: " if error.filename else ""
        hint = limit_hint(error) or "RL_DEBUG=1 shows where"
        text, code = f"Error: {name}{error.strerror or error}\nhint: {hint}\n", 125
    else:
        text = f"Error: internal error: {type(error).__name__}: {error}\n"
        text, code = text + "hint: this is a bug in rl; RL_DEBUG=1 shows the traceback to report\n", 125
    _flush(sys.stdout)
    try:
        sys.stderr.write(printable(text))
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
    from rl.cli.dispatch import dispatch

    return dispatch(argv, handle)


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

    return prefork(argv=argv)


def _flush(stream: Any) -> bool:
    try:
        if stream is not None:
            stream.flush()
    except (OSError, ValueError):
        return False
    return True


def _complain(text: bytes) -> None:
    try:
        os.write(2, text)
    except OSError:
        pass


def _quiet_stdout(code: int) -> int:
    """After EPIPE: nothing more may be written to stdout, not even at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    return code


def _end(code: int) -> NoReturn:
    """Leave without the interpreter's tear-down: 3 ms of a short command, and nothing in it is needed."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # as in `rl images | head -1`: what a program without a handler for SIGPIPE ends with
        code = code or 141
    except (OSError, ValueError):
        if code == 0:
            _complain(b"Error: write to standard output failed\n")
        code = code or 125
    _flush(sys.stderr)
    os._exit(code & 0xFF)


if __name__ == "__main__":
    main()
