"""Finding and executing the container's command: execvpe(3) with errors that exit codes are decided from.

Called as the last step of create and exec, inside the container. Source: podman-run(1), "Exit Status".
"""

from __future__ import annotations

import _signal
import errno
import os

from rl.errors import CommandNotExecutableError, CommandNotFoundError, RlError
from rl.kernel import fs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from rl.runtime.launcher import Launcher

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_HEAD = 4096  # bytes read of a program to find its interpreter
_NOT_EXECUTABLE = frozenset(
    (errno.EPERM, errno.ELOOP, errno.ETXTBSY, errno.EISDIR, errno.ELIBBAD, errno.EINVAL, errno.ENAMETOOLONG)
)
_NESTING = 5  # interpreters of interpreters, as binfmt_script allows


def find(arguments: list[str], environment: dict[str, str]) -> list[str]:
    """The files that ``arguments[0]`` may mean, those that exist, in the order of PATH in *environment*.

    Raises CommandNotFoundError when there is none, CommandNotExecutableError for one that leads to ourselves.
    """
    command = arguments[0]
    if "/" in command:
        candidates = [command]
    else:
        path = environment.get("PATH", _DEFAULT_PATH)
        candidates = [f"{directory or '.'}/{command}" for directory in path.split(":")]
    if "\0" in command:
        raise CommandNotExecutableError(f"start {command!r}: a NUL byte in the name")
    found = [candidate for candidate in candidates if _exists(candidate)]
    for candidate in found:
        _refuse_ourselves(candidate)
    if found:
        return found
    if "/" in command:
        raise CommandNotFoundError(f"start {command}: no such file or directory in the container",
                                   "the command and --entrypoint name files of the image")
    raise CommandNotFoundError(f"start {command!r}: executable file not found in $PATH",
                               "check the spelling, or give the full path of a file of the image")


def _exists(path: str) -> bool:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        pass  # EACCES, ELOOP …: execve(2) will say it
    return True


def execute(
    candidates: list[str], arguments: list[str], environment: dict[str, str], launcher: Launcher | None = None
) -> None:
    """Become the first of *candidates* that can be executed; returns only by raising.

    As execvpe(3) does, EACCES makes it look further and is reported when nothing else is found. With a *launcher*
    that goes on in a program that may report what fails to the parent instead (:mod:`rl.runtime.launcher`). Raises
    CommandNotFoundError (ENOENT), CommandNotExecutableError (EACCES, ENOEXEC, a directory), RlError.
    """
    if launcher is not None:
        programs = [candidate for candidate in candidates if not os.path.isdir(candidate)]
        if not programs:
            raise explain(candidates[0], errno.EACCES, directory=True)
        try:
            launcher.execute(programs, arguments, environment)
        except OSError as error:
            raise explain(programs[0], error.errno or 0) from None
    remembered: RlError | None = None
    for candidate in candidates:
        try:
            os.execve(candidate, arguments, environment)
        except OSError as error:
            problem = explain(candidate, error.errno or 0, error.errno == errno.EACCES and os.path.isdir(candidate))
            if error.errno != errno.EACCES:
                raise problem from None
            remembered = remembered or problem
        except ValueError as error:  # a NUL byte in an argument
            raise CommandNotExecutableError(f"start {candidate}: {error}") from None
    raise remembered or CommandNotFoundError(f"start {arguments[0]}: no such file or directory in the container")


def spawn_protected(path: str, arguments: list[str], environment: dict[str, str], stdin: int) -> int:
    """:func:`spawn` through the launcher."""
    return spawn(path, arguments, environment, stdin, exposed=True)


def spawn(path: str, arguments: list[str], environment: dict[str, str], stdin: int, exposed: bool = False) -> int:
    """Start a program of the container's as a child, with the same care: its pid. Raises OSError, RlError."""
    from rl.runtime import launcher

    _refuse_ourselves(path)
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    try:
        through = launcher.prepare(write_end) if exposed else None
        pid = os.fork()
        if pid == 0:
            _become_child(path, arguments, environment, stdin, write_end, through)
        if through is not None:
            os.close(through.fd)
    finally:
        os.close(write_end)
    with open(read_end, "rb") as pipe:
        packet = pipe.read()
    if packet:
        os.waitpid(pid, 0)
        number = launcher.parse(packet)[1]
        raise OSError(number, os.strerror(number), path)
    return pid


def _become_child(
    path: str, arguments: list[str], environment: dict[str, str], stdin: int, report: int, through: Launcher | None
) -> NoReturn:
    try:
        os.dup2(stdin, 0, inheritable=True)
        for number in (_signal.SIGPIPE, _signal.SIGXFSZ):
            _signal.signal(number, _signal.SIG_DFL)
        if through is not None:
            through.execute([path], arguments, environment)
        os.execve(path, arguments, environment)
    except OSError as error:
        os.write(report, b"X" + (error.errno or errno.EINVAL).to_bytes(4, "little"))
    finally:
        os._exit(126)


def explain(path: str, number: int, directory: bool = False) -> RlError:
    """The error for errno *number* of execve(2) of *path*."""
    what = f"start {path}: {os.strerror(number)}"
    if number in (errno.ENOENT, errno.ENOTDIR):
        return CommandNotFoundError(
            f"{what}: the file is there, its interpreter or dynamic loader is not",
            "install what its first line (#!) names, or a program built for this image's C library",
        )
    if number == errno.ENOEXEC:
        return CommandNotExecutableError(
            f"start {path}: exec format error", "it is built for another architecture, or is a script without #! line"
        )
    if number == errno.EACCES:
        return CommandNotExecutableError(
            what + (": it is a directory" if directory else ""),
            "" if directory else f"make it executable (chmod +x {path}), or check noexec mounts and the user",
        )
    if number == errno.EAGAIN:
        return RlError(what, "the user has reached RLIMIT_NPROC: raise --ulimit nproc")
    if number == errno.ENOMEM:
        return RlError(what, "the memory limit is too small for this program: raise --memory")
    if number == errno.E2BIG:
        return CommandNotExecutableError(what, "arguments and environment are too long")
    if number in _NOT_EXECUTABLE:
        return CommandNotExecutableError(what)
    return RlError(what)


def _refuse_ourselves(path: str) -> None:
    """Refuse a program that leads to this interpreter by a magic link, such as ``#!/proc/self/exe``.

    It would run the host's interpreter inside the container, which could then open it for writing
    (CVE-2019-5736). Interpreters named by ``#!`` and by ELF's PT_INTERP are followed.
    """
    for _ in range(_NESTING + 1):
        try:
            fd = fs.openat2(-100, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY, 0, fs.RESOLVE_NO_MAGICLINKS)
        except PermissionError:
            return  # executable but not readable: nothing to read an interpreter from
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise CommandNotExecutableError(
                    f"start {path}: refused, it leads through a link of /proc to a program outside of the container",
                    "name the program itself instead of /proc/self/exe or /proc/PID/…",
                ) from None
            return  # execve will say it better
        try:
            head = os.read(fd, _HEAD)
            path = _interpreter(fd, head)
        except OSError:
            return
        finally:
            os.close(fd)
        if not path:
            return


def _interpreter(fd: int, head: bytes) -> str:
    if head[:2] == b"#!":
        words = head[2:].split(b"\n", 1)[0].split(None, 1)
        return os.fsdecode(words[0]) if words else ""
    if head[:4] != b"\x7fELF" or head[4:5] not in (b"\x01", b"\x02"):
        return ""
    wide = head[4] == 2

    def number(data: bytes, offset: int, size: int) -> int:
        return int.from_bytes(data[offset : offset + size], "little" if head[5] == 1 else "big")

    table = number(head, 32, 8) if wide else number(head, 28, 4)
    size, count = (number(head, 54, 2), number(head, 56, 2)) if wide else (number(head, 42, 2), number(head, 44, 2))
    segments = os.pread(fd, size * min(count, 128), table)
    for start in range(0, len(segments), size or 1):
        if number(segments, start, 4) == 3:  # PT_INTERP
            offset = number(segments, start + 8, 8) if wide else number(segments, start + 4, 4)
            length = number(segments, start + 32, 8) if wide else number(segments, start + 16, 4)
            return os.fsdecode(os.pread(fd, min(length, 4096), offset).split(b"\0", 1)[0])
    return ""
