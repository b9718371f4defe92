"""Real attempts to get out of real containers of ordinary users; each must fail, and be shown to work elsewhere.

Two installations: the tests' own, whose interpreter is root's, and copies below a user's home, interpreter included
(as pyenv, uv and `venv --copies` make them), some of them with a protection taken out: the positive controls.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import images, users
from system.conftest import Rl, unique_user

HERE = Path(__file__).parent
VENV = users.BIN.parent


@pytest.fixture(scope="session")
def programs() -> Path:
    """The directory of the compiled attack programs, built when their source is new."""
    sources = [HERE / "attack.c", HERE / "exe.c"]
    stamp = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]
    directory = images.CACHE / f"escape-{stamp}"
    if directory.exists():
        return directory
    work = Path(tempfile.mkdtemp(dir=images.CACHE))
    work.chmod(0o755)
    bare = ["-O1", "-nostdlib", "-fPIE", "-ffreestanding", "-fno-stack-protector"]
    for command in (
        ["gcc", "-static", "-O1", "-w", "-o", work / "attack", HERE / "attack.c"],
        ["gcc", *bare, "-static-pie", "-o", work / "exe", HERE / "exe.c"],
        # A command whose dynamic loader is whatever executes it.
        ["gcc", *bare, "-pie", "-Wl,--dynamic-linker=/proc/self/exe", "-o", work / "loaded", HERE / "exe.c"],
    ):
        subprocess.run(command, check=True, capture_output=True)
    work.rename(directory)
    return directory


@pytest.fixture(scope="session")
def archive(programs: Path) -> Iterator[Path]:
    """Image "attack": busybox, the programs, and files that lead to the program that executes them."""
    directory = Path(tempfile.mkdtemp(prefix="rl-escape-", dir="/var/tmp"))
    directory.chmod(0o755)
    layer = directory / "layer.tar"
    with tarfile.open(layer, "w") as tar:
        for name in ("mnt", "ro", "srv", "lib64"):
            images.add(tar, name, kind=tarfile.DIRTYPE, mode=0o755)
        images.add(tar, "bin/attack", (programs / "attack").read_bytes(), mode=0o755)
        images.add(tar, "lib64/ld-linux-x86-64.so.2", (programs / "exe").read_bytes(), mode=0o755)
        images.add(tar, "evil/loaded", (programs / "loaded").read_bytes(), mode=0o755)
        images.add(tar, "evil/script", b"#!/proc/self/exe\n", mode=0o755)
        images.add(tar, "evil/link", kind=tarfile.SYMTYPE, link="/proc/self/exe")
        images.add(tar, "evil/by-link", b"#!/evil/link\n", mode=0o755)
        images.add(tar, "evil/by-script", b"#!/evil/script\n", mode=0o755)
        images.add(tar, "evil/thread", b"#!/proc/thread-self/exe\n", mode=0o755)
        images.add(tar, "bin/setuid-id", (programs / "attack").read_bytes(), mode=0o4755)
        for number in range(3, 16):
            images.add(tar, f"evil/cwd{number}", kind=tarfile.SYMTYPE, link=f"/proc/self/fd/{number}")
    path = images.archive_of(
        directory / "attack.tar", [images.busybox_layer(directory / "base.tar"), layer], {"Cmd": ["sh"]}, "attack:latest"
    )
    path.chmod(0o644)
    yield path
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def _escape_rl(archive: Path) -> Iterator[Rl]:
    rl = Rl(unique_user("rltest-escape"))
    rl.ok("load", "-q", "-i", archive)
    yield rl
    rl.clean()
    users.wipe(rl.user)


@pytest.fixture
def rl(_escape_rl: Rl) -> Iterator[Rl]:
    """An ordinary user of the installed product, with image "attack"."""
    yield _escape_rl
    _escape_rl.clean()


@pytest.fixture(scope="session")
def root_rl(archive: Path) -> Iterator[Rl]:
    """Real root."""
    base = Path(f"/var/tmp/{users.PREFIX}-escape-root")
    base.mkdir(mode=0o755, exist_ok=True)
    user = users.root(base)
    users.wipe(user)
    user.prepare()
    rl = Rl(user, lane="root")
    rl.ok("load", "-q", "-i", archive)
    yield rl
    rl.clean()
    users.wipe(user)
    shutil.rmtree(base, ignore_errors=True)


class Installation(Rl):
    """A copy of the product, interpreter included."""

    @property
    def interpreter(self) -> Path:
        return self.user.home / "venv/bin/python3"

    def state(self) -> tuple[int, str, int]:
        """What an attack would change: mode, content, owner of the interpreter."""
        info = self.interpreter.stat()
        return info.st_mode & 0o7777, hashlib.sha256(self.interpreter.read_bytes()).hexdigest(), info.st_uid


Install = Callable[..., Installation]


@pytest.fixture(scope="session")
def install(archive: Path) -> Iterator[Install]:
    """install(name, patches): a copy in the home of a user of its own; *patches*: file → (text, replacement) pairs.

    With a name that begins with "root" it is real root's.
    """
    made: dict[str, Installation] = {}

    def make(name: str, patches: dict[str, list[tuple[str, str]]] | None = None) -> Installation:
        if name not in made:
            if name.startswith("root"):
                base = Path(f"/var/tmp/{users.PREFIX}-{name}")
                base.mkdir(mode=0o755, exist_ok=True)
                user = users.root(base)
                users.wipe(user)
                user.prepare()
            else:
                user = unique_user(f"rltest-{name}")
            _copy(user.home / "venv", patches or {})
            subprocess.run(["chown", "-R", f"{user.uid}:{user.gid}", user.home / "venv"], check=True)
            user.environment["PATH"] = f"{user.home}/venv/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
            made[name] = Installation(user)
            made[name].ok("load", "-q", "-i", archive)
        made[name].clean()
        return made[name]

    yield make
    for copy in made.values():
        copy.clean()
        users.wipe(copy.user)
        shutil.rmtree(copy.user.home / "venv")


def _copy(target: Path, patches: dict[str, list[tuple[str, str]]]) -> None:
    shutil.rmtree(target, ignore_errors=True)
    library = next((VENV / "lib").glob("python3*"))
    packages = target / "lib" / library.name / "site-packages"
    packages.parent.mkdir(parents=True)
    packages.mkdir()
    (target / "bin").mkdir()
    shutil.copy(os.path.realpath(VENV / "bin/python3"), target / "bin/python3")
    shutil.copy(VENV / "pyvenv.cfg", target / "pyvenv.cfg")
    shutil.copytree(library / "site-packages/rl", packages / "rl", ignore=shutil.ignore_patterns("__pycache__"))
    (packages / "others.pth").write_text(f"{library}/site-packages\n")
    shutil.copytree(VENV / "libexec", target / "libexec")
    command = (VENV / "bin/rl").read_text().split("\n", 1)[1]
    (target / "bin/rl").write_text(f"#!{target}/bin/python3\n{command}")
    (target / "bin/rl").chmod(0o755)
    for name, pairs in patches.items():
        path = packages / name
        text = path.read_text()
        for old, new in pairs:
            assert old in text, f"{name} has no {old!r} any more: the control must take out the protection as it is now"
            text = text.replace(old, new)
        path.write_text(text)


def verdicts(text: str) -> dict[str, str]:
    """attack's lines: name → "ok", an errno's name or a signal."""
    return {name: verdict for name, _, verdict in (line.rpartition(" ") for line in text.splitlines())}
