"""Errors that people see: one tree, each class knows its exit code and its HTTP status.

Libraries raise these; the command line prints ``Error: …`` and ``hint: …`` once and exits with
``exit_code``; the API answers once with ``http_status``. A traceback is a bug.

A message says what was being done, to what, and why it failed; the hint is the command or the
change that fixes it. Exit codes follow Podman (podman-run(1), "Exit Status"): 125 the engine
itself failed, 126 the command cannot be invoked, 127 the command was not found.
"""

from __future__ import annotations


class RlError(Exception):
    """Anything rl reports to its user: ``message`` without a final period, ``hint`` may be empty."""

    exit_code = 125
    http_status = 500

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def disk_hint(error: OSError) -> str:
    """What to do about a full disk or an exhausted quota; "" for another *error*."""
    import errno

    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return "free disk space: `rl rmi` and `rl rm` remove what is not needed" if full else ""


def printable(text: str) -> str:
    """*text* for a terminal: what comes from an image or a container (names, paths) must not control it."""
    if all(line.isprintable() for line in text.split("\n")):
        return text
    return "".join(
        character if character.isprintable() or character in "\n\t" else ascii(character)[1:-1] for character in text
    )


def limit_hint(error: BaseException) -> str:
    """What to do about a limit of processes, memory or descriptors that is too small; "" for another *error*."""
    import errno

    number = error.errno if isinstance(error, OSError) else errno.ENOMEM if isinstance(error, MemoryError) else 0
    if number == errno.EAGAIN:
        return "a limit of processes is reached: ulimit -u, --ulimit nproc, --pids-limit, or that of an outer cgroup"
    if number == errno.ENOMEM:
        return "a limit of memory is too small: ulimit -v, --ulimit as, --memory, or that of an outer cgroup"
    return "the limit of open files is too small: ulimit -n, --ulimit nofile" if number == errno.EMFILE else ""


class UsageError(RlError):
    """The request itself is wrong: a bad flag value, contradicting flags."""

    http_status = 400


class NotFoundError(RlError):
    """No such container, image, volume, …"""

    http_status = 404


class NoSuchContainerError(NotFoundError):
    """No container has this name or id."""


class NoSuchImageError(NotFoundError):
    """No image has this name, id or digest; locally or, after a pull, anywhere."""


class NoSuchVolumeError(NotFoundError):
    """No volume has this name."""


class NoSuchSecretError(NotFoundError):
    """No secret has this name or id."""


class AmbiguousNameError(RlError):
    """A short id fits more than one object."""

    http_status = 400


class ConflictError(RlError):
    """The name, the port or the object is taken or in use."""

    http_status = 409


class VolumeInUseError(ConflictError):
    """A container, running or not, uses the volume."""


class StateError(RlError):
    """The object is not in the state the request needs (start of a removed container, …)."""

    http_status = 409


class UnsupportedError(RlError):
    """This host (kernel, missing program, permission) cannot do what was asked."""

    http_status = 501


class CorruptRecordError(RlError):
    """A file in the state directory does not say what it should; the message names the file."""


class CommandNotExecutableError(RlError):
    """The container's command exists but cannot be invoked (EACCES, ENOEXEC, a directory)."""

    exit_code = 126
    http_status = 400


class CommandNotFoundError(RlError):
    """The container's command does not exist (ENOENT)."""

    exit_code = 127
    http_status = 400


class StepFailedError(RlError):
    """A command of a build ended with an exit code other than 0, which becomes that of the build."""

    def __init__(self, message: str, hint: str = "", code: int = 1) -> None:
        super().__init__(message, hint)
        self.exit_code = code


class RegistryError(RlError):
    """A registry answered with an error or not at all."""

    http_status = 500


class AuthenticationError(RegistryError):
    """A registry refused the credentials, or wants some."""

    http_status = 401


class VerificationError(RlError):
    """Content differs from its digest or size, an archive is hostile, a policy refuses an image."""


ERROR_CLASSES: dict[str, type[RlError]] = {}


def _register(cls: type[RlError]) -> None:
    ERROR_CLASSES[cls.__name__] = cls
    for sub in cls.__subclasses__():
        _register(sub)


_register(RlError)


def to_wire(error: BaseException) -> dict[str, str]:
    """The error as a JSON object, to cross a process boundary; see :func:`from_wire`."""
    if isinstance(error, RlError):
        return {"class": type(error).__name__, "message": error.message, "hint": error.hint}
    message = f"{type(error).__name__}: {error}"
    if isinstance(error, OSError):
        what = error.filename or ("start a process" if isinstance(error, BlockingIOError) else "")
        message = (f"{what}: " if what else "") + (error.strerror or message)
    return {"class": "RlError", "message": message, "hint": limit_hint(error)}


def from_wire(data: dict[str, str]) -> RlError:
    """The error that :func:`to_wire` described, ready to be raised."""
    cls = ERROR_CLASSES.get(data.get("class", ""), RlError)
    return cls(data.get("message", "unknown error"), data.get("hint", ""))
