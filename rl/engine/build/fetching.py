"""Contexts and sources on other machines: files by http, repositories by git(1). With the caller's own rights.

What is fetched lies in a directory of the caller's, which goes at the end of the build. Source: Docker's "Build
context", "Git repositories"; git-clone(1).
"""

from __future__ import annotations

import os
import re
import subprocess
import urllib.parse

from rl.errors import NotFoundError, RlError, UnsupportedError, UsageError
from rl.runtime.userns import find_program

_TIMEOUT = 60  # seconds without a byte
_GIT_SECONDS = 1800
_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?\Z")


def is_git(text: str) -> bool:
    """Whether *text* names a git repository, as Docker's and Buildah's users write it."""
    if text.startswith(("git://", "git@", "ssh://", "git+ssh://")):
        return True
    if not text.startswith(("http://", "https://", "file://")):
        return False
    return urllib.parse.urlsplit(text).path.endswith(".git")


class Checkout:
    """``path``: the directory that was asked for; ``commit``: what it is of; ``subdirectory`` of the repository."""

    __slots__ = ("commit", "path", "subdirectory")

    def __init__(self, path: str, commit: str, subdirectory: str) -> None:
        self.path = path
        self.commit = commit
        self.subdirectory = subdirectory


def checkout(text: str, directory: str) -> Checkout:
    """``URL[#REF[:SUBDIRECTORY]]``. No hooks run, nothing is asked for. Raises UnsupportedError, RlError."""
    url, _, fragment = text.partition("#")
    reference, _, subdirectory = fragment.partition(":")
    if not find_program("git"):
        raise UnsupportedError(f"fetch {text}: git is not installed", "install package git")
    if reference.startswith("-") or url.startswith("-"):
        raise UsageError(f"fetch {text}: not the name of a branch, a tag or a commit")
    target = f"{directory}/git-{os.urandom(4).hex()}"
    _git(text, "init", "-q", target)
    wanted = reference or "HEAD"
    fetch = ["-C", target, "fetch", "-q", "--no-tags", "--depth=1", url]
    try:
        _git(text, *fetch, wanted)
    except RlError:
        if not reference:
            raise
        # Servers need not give a commit by its digest, nor abbreviated ones.
        _git(text, "-C", target, "fetch", "-q", "--tags", url, "+refs/heads/*:refs/remotes/origin/*")
        found = _git(text, "-C", target, "rev-parse", "--verify", "-q", f"{reference}^{{commit}}").strip()
        _git(text, "-C", target, "checkout", "-q", "--detach", found)
    else:
        _git(text, "-C", target, "checkout", "-q", "--detach", "FETCH_HEAD")
    _git(text, "-C", target, "submodule", "-q", "update", "--init", "--recursive", "--depth=1")
    commit = _git(text, "-C", target, "rev-parse", "HEAD").strip()
    path = os.path.normpath(os.path.join(target, subdirectory.lstrip("/")))
    real = os.path.realpath(path)
    if real != target and not real.startswith(target + "/"):
        raise UsageError(f"fetch {text}: {subdirectory} leads out of the repository")
    if not os.path.isdir(real):
        raise NotFoundError(f"fetch {text}: there is no directory {subdirectory} in it", "URL#REF:DIRECTORY")
    return Checkout(real, commit, subdirectory)


def _git(text: str, *words: str) -> str:
    environment = {
        **os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "true", "SSH_ASKPASS": "true", "LC_ALL": "C",
        "GIT_SSH_COMMAND": os.environ.get("GIT_SSH_COMMAND", "ssh -o BatchMode=yes"),
        "GIT_CONFIG_NOSYSTEM": "1", "GIT_ALLOW_PROTOCOL": "http:https:git:ssh:file",
    }  # fmt: skip
    command = ["git", "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "init.defaultBranch=main",
               "-c", "safe.directory=*", *words]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", env=environment, stdin=subprocess.DEVNULL,
            timeout=_GIT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise RlError(f"fetch {text}: git took more than {_GIT_SECONDS} s") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        said = lines[-1].removeprefix("fatal: ") if lines else f"git ended with status {done.returncode}"
        raise RlError(f"fetch {text}: {said}", "check URL, branch or tag, and that you may read it without a question")
    return done.stdout


def download(url: str, directory: str) -> tuple[int, dict[str, str]]:
    """(descriptor of the nameless file in *directory*, headers in small letters). Raises NotFoundError, RlError."""
    import http.client
    import urllib.error
    import urllib.request

    request = urllib.request.Request(url, headers={"User-Agent": "rl"})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        raise NotFoundError(f"fetch {url}: the server answers {error.code} {error.reason}", "check the URL") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise RlError(f"fetch {url}: {reason}", "check the URL, the network and the proxy settings") from None
    fd = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        with response:
            while piece := response.read(1 << 20):
                view = memoryview(piece)
                while view:
                    view = view[os.write(fd, view):]
            if response.length:
                raise RlError(f"fetch {url}: it broke off, {response.length} bytes are missing", "try again")
    except (OSError, http.client.HTTPException) as error:
        os.close(fd)
        raise RlError(f"fetch {url}: {error}", "try again") from None
    except BaseException:
        os.close(fd)
        raise
    os.lseek(fd, 0, os.SEEK_SET)
    return fd, {name.lower(): value for name, value in response.headers.items()}
