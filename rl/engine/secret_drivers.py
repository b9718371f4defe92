"""Where the data of a secret is: a file, pass(1)'s store of files that gpg has encrypted, or commands of the user.

Options and the environment of the commands are those of Podman's drivers, so that a configuration can be kept.
"""

from __future__ import annotations

import os

from rl.config.jsonio import write_atomic
from rl.errors import NoSuchSecretError, RlError, UnsupportedError, UsageError, disk_hint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    from rl.config.paths import Paths

    class Driver(Protocol):
        """Keeps the data of secrets by their ids. All raise RlError; ``lookup`` NoSuchSecretError."""

        options: dict[str, str]

        def store(self, secret_id: str, data: bytes, staging: str) -> None:
            """Keep *data*; *staging* is the directory that will be the secret's own."""

        def lookup(self, secret_id: str) -> bytes:
            """The data of *secret_id*."""

        def delete(self, secret_id: str) -> None:
            """Forget it; what is gone already is fine."""


def open_driver(paths: Paths, name: str, options: dict[str, str]) -> Driver:
    """The driver *name*. Raises UsageError for an unknown one or wrong options, UnsupportedError."""
    if name not in _DRIVERS:
        raise UsageError(f"invalid driver {name!r}", f"use one of: {', '.join(_DRIVERS)}")
    return _DRIVERS[name](paths, options)


def _refuse_unknown(driver: str, options: dict[str, str], known: Sequence[str]) -> None:
    for key in options:
        if key not in known:
            raise UsageError(f"--driver-opts: the driver {driver} has no option {key!r}", f"it has: {', '.join(known)}")


class File:
    """The data as it is, in a file of mode 0600: beside the record, or in the directory of option ``path``."""

    def __init__(self, paths: Paths, options: dict[str, str]) -> None:
        _refuse_unknown("file", options, ("path",))
        self.home = paths.secrets
        self.options = {"path": os.path.abspath(options["path"])} if options.get("path") else {}

    def _path(self, secret_id: str, staging: str = "") -> str:
        if self.options:
            return f"{self.options['path']}/{secret_id}"
        return f"{staging or f'{self.home}/{secret_id}'}/data"

    def store(self, secret_id: str, data: bytes, staging: str) -> None:
        """See Driver."""
        path = self._path(secret_id, staging)
        try:
            os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
            write_atomic(path, data, 0o600)
        except OSError as error:
            raise RlError(f"write {path}: {error.strerror}", disk_hint(error)) from None

    def lookup(self, secret_id: str) -> bytes:
        """See Driver."""
        path = self._path(secret_id)
        try:
            with open(path, "rb") as file:
                return file.read()
        except FileNotFoundError:
            raise NoSuchSecretError(f"secret {secret_id}: {path} is gone", "create it again with --replace") from None
        except OSError as error:
            raise RlError(f"read {path}: {error.strerror}") from None

    def delete(self, secret_id: str) -> None:
        """See Driver."""
        _remove(self._path(secret_id))


class Shell:
    """Commands of the user's own, run by /bin/sh with $SECRET_ID; data on their standard input and output."""

    _COMMANDS = ("list", "lookup", "store", "delete")

    def __init__(self, paths: Paths, options: dict[str, str]) -> None:
        _refuse_unknown("shell", options, self._COMMANDS)
        missing = [name for name in self._COMMANDS if not options.get(name)]
        if missing:
            raise UsageError(
                f"the driver shell needs the commands {', '.join(missing)}",
                "--driver-opts list=COMMAND --driver-opts lookup=… --driver-opts store=… --driver-opts delete=…",
            )
        self.options = dict(options)

    def _run(self, which: str, secret_id: str, data: bytes = b"") -> bytes:
        command = ["/bin/sh", "-c", self.options[which]]
        return _run(command, data, f"secret driver shell: {which} {secret_id}", {"SECRET_ID": secret_id})

    def store(self, secret_id: str, data: bytes, staging: str) -> None:
        """See Driver."""
        self._run("store", secret_id, data)

    def lookup(self, secret_id: str) -> bytes:
        """See Driver."""
        return self._run("lookup", secret_id)

    def delete(self, secret_id: str) -> None:
        """See Driver."""
        self._run("delete", secret_id)


class Pass:
    """Files of pass(1), encrypted by gpg for ``key``, which is by default the one in ``root``/.gpg-id."""

    def __init__(self, paths: Paths, options: dict[str, str]) -> None:
        from rl.runtime.userns import find_program

        _refuse_unknown("pass", options, ("root", "key", "gpghomedir"))
        root = options.get("root") or os.environ.get("PASSWORD_STORE_DIR") or os.path.expanduser("~/.password-store")
        self.options = {**options, "root": os.path.abspath(root)}
        self.program = find_program("gpg")
        if not self.program:
            raise UnsupportedError("the secret driver pass needs gpg, which is not installed", "install package gnupg")
        if not self.options.get("key"):
            self.options["key"] = self._default_key()

    def _default_key(self) -> str:
        path = f"{self.options['root']}/.gpg-id"
        try:
            with open(path, encoding="utf-8") as file:
                found = file.readline().strip()
        except (OSError, UnicodeDecodeError):
            found = ""
        if not found:
            what = f"the secret driver pass has no key: {path} names none"
            raise UsageError(what, "--driver-opts key=ID, or pass init ID")
        return found

    def _gpg(self, secret_id: str, *arguments: str, data: bytes = b"") -> bytes:
        home = ["--homedir", self.options["gpghomedir"]] if self.options.get("gpghomedir") else []
        return _run([self.program, "--batch", "--quiet", *home, *arguments], data, f"secret {secret_id}: gpg", {})

    def _path(self, secret_id: str) -> str:
        return f"{self.options['root']}/{secret_id}.gpg"

    def store(self, secret_id: str, data: bytes, staging: str) -> None:
        """See Driver."""
        key = self.options["key"]
        encrypted = self._gpg(secret_id, "--trust-model", "always", "--encrypt", "-r", key, "-o", "-", data=data)
        try:
            os.makedirs(self.options["root"], 0o700, exist_ok=True)
            write_atomic(self._path(secret_id), encrypted, 0o600)
        except OSError as error:
            raise RlError(f"write {self._path(secret_id)}: {error.strerror}", disk_hint(error)) from None

    def lookup(self, secret_id: str) -> bytes:
        """See Driver."""
        path = self._path(secret_id)
        if not os.path.exists(path):
            raise NoSuchSecretError(f"secret {secret_id}: {path} is gone", "create it again with --replace")
        return self._gpg(secret_id, "--decrypt", path)

    def delete(self, secret_id: str) -> None:
        """See Driver."""
        _remove(self._path(secret_id))


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise RlError(f"remove {path}: {error.strerror}") from None


def _run(command: list[str], data: bytes, what: str, environment: dict[str, str]) -> bytes:
    """What *command* prints; *data* is its standard input. Raises RlError with what it complains of."""
    import subprocess

    try:
        done = subprocess.run(command, input=data, capture_output=True, env={**os.environ, **environment}, check=False)
    except OSError as error:
        raise RlError(f"{what}: {error.strerror}") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().split("\n")[-1] or f"exit code {done.returncode}"
        raise RlError(f"{what}: {said}", "the commands stand in --driver-opts; try them by hand")
    return done.stdout


_DRIVERS: dict[str, type[File] | type[Shell] | type[Pass]] = {"file": File, "pass": Pass, "shell": Shell}
