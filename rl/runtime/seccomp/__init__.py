"""Seccomp filters: from an OCI ``linux.seccomp`` object to a program the kernel runs on every system call.

The engine asks for a profile when it writes the bundle (:func:`default_profile`, :func:`resolve`), the
runtime for its program (:func:`program_for`) and loads it as the last step before exec (:func:`install`).
Compiling takes some milliseconds and is done once per profile: the program is kept under
``<cache>/seccomp/``; the compiler is imported on a miss only.

Source: OCI runtime specification, config-linux.md "Seccomp"; seccomp(2).
"""

from __future__ import annotations

import os
import sys

from rl.config.jsonio import dumps, write_atomic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

#: Part of the cache key: raise it with every change of the programs the compiler makes (a test reminds of it).
COMPILER_VERSION = 2

NEW_LISTENER = 8  # SECCOMP_FILTER_FLAG_NEW_LISTENER

_DIGEST_SIZE = 32


def default_profile(capabilities: Iterable[str]) -> dict[str, Any]:
    """The OCI object of the default profile; *capabilities* (``CAP_…``) are the container's bounding set."""
    from rl.runtime.seccomp import profile

    return profile.default_profile(capabilities)


def resolve(document: Any, capabilities: Iterable[str], where: str = "seccomp profile") -> dict[str, Any]:
    """The OCI object of a profile file: Docker's and Podman's format, or already an OCI object.

    Raises UsageError, naming *where* and the JSON path, for anything that is not a valid profile.
    """
    from rl.runtime.seccomp import profile

    return profile.resolve(document, capabilities, where)


def flags_of(profile: dict[str, Any]) -> int:
    """The seccomp(2) flags *profile* asks for; with a NOTIFY action that includes NEW_LISTENER (8).

    Raises UsageError for an unknown flag, or NOTIFY without a ``listenerPath``.
    """
    rules = profile.get("syscalls") or ()
    if not profile.get("flags") and not any(rule.get("action") == "SCMP_ACT_NOTIFY" for rule in rules):
        return 0
    from rl.runtime.seccomp import compiler

    return compiler.flags_of(profile)


def program_for(profile: dict[str, Any], cache_dir: str = "") -> bytes | None:
    """The filter of *profile* (struct sock_filter[]), or None where there is no profile: unconfined.

    *cache_dir* is where programs are kept (``Paths.cache``), "" keeps none. A damaged cache file is
    replaced; a cache that cannot be written is no error. Raises UsageError for a profile that is not
    valid, UnsupportedError on a machine whose system call numbers are not known.
    """
    if not profile:
        return None
    if not cache_dir:
        return _compile(profile)
    key = f"{COMPILER_VERSION} {os.uname().machine} {sys.byteorder} {dumps(profile)}"
    path = f"{cache_dir}/seccomp/{_sha256(key.encode()).hex()}"
    program = _read(path)
    if program is None:
        program = _compile(profile)
        try:
            os.makedirs(f"{cache_dir}/seccomp", 0o700, exist_ok=True)
            write_atomic(path, _sha256(program) + program, sync=False)
        except OSError:
            pass  # a full or read-only cache costs the next start some milliseconds, nothing else
    return program


def install(program: bytes, flags: int = 0) -> int:
    """Put this thread, and all it starts, under *program*; there is no way back.

    Returns the listener's file descriptor with flag NEW_LISTENER, else 0. Raises OSError: EACCES when
    the thread has neither no_new_privs nor CAP_SYS_ADMIN in its user namespace, EINVAL for a bad program.
    """
    from rl.kernel import process

    return process.set_seccomp_filter(program, flags)


def _compile(profile: dict[str, Any]) -> bytes:
    from rl.runtime.seccomp import compiler

    return compiler.compile_profile(profile)


def _read(path: str) -> bytes | None:
    """The program in a cache file, None when there is none or it is not what was written."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        data = os.read(fd, 1 << 16)  # the kernel takes 4096 instructions of 8 bytes at most
    except OSError:
        return None
    finally:
        os.close(fd)
    program = data[_DIGEST_SIZE:]
    if not program or len(program) % 8 or _sha256(program) != data[:_DIGEST_SIZE]:
        return None
    return program


def _sha256(data: bytes) -> bytes:
    # hashlib imports OpenSSL's bindings, 5 ms; the C module behind it has changed its name in Python 3.12.
    try:
        from _sha2 import sha256
    except ImportError:
        try:
            from _sha256 import sha256
        except ImportError:
            from hashlib import sha256
    digest: bytes = sha256(data).digest()
    return digest
