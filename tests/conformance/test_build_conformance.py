"""The image that rl makes of a Containerfile is the one that Buildah makes: configuration, history, file tree.

Buildah runs as root with chroot isolation in a store of the tests' own; both images are read from OCI layouts by
tests/support/ocilayout.py. What is left out of the comparison, and why, stands in `_configuration` and `_tree`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conformance.cases import CASES, Case
from support import ocilayout
from system.conftest import Rl

_ENVIRONMENT = {"FROM_HOST": "of the caller"}


class Buildah:
    """buildah(1) with a store of its own, in which busybox is."""

    def __init__(self, work: Path) -> None:
        self._work = work
        self._flags = ["--root", str(work / "root"), "--runroot", str(work / "run"), "--storage-driver", "overlay"]

    def __call__(self, *words: str | Path) -> str:
        done = subprocess.run(
            ["buildah", *self._flags, *map(str, words)], capture_output=True, text=True, timeout=120, cwd=self._work,
            stdin=subprocess.DEVNULL, env={**os.environ, **_ENVIRONMENT, "TMPDIR": str(self._work)},
        )
        assert done.returncode == 0, f"buildah {words}: {done.stdout}{done.stderr}"
        return done.stdout

    def build(self, case: Case, context: Path, layout: Path) -> ocilayout.Image:
        file = context.with_name("Containerfile.peer")
        file.write_text(case.peer or case.containerfile, newline="")
        layers = [] if any(word.startswith("--layers") for word in case.options) else ["--layers"]
        self("bud", "--isolation", "chroot", "--network", "host", *layers, "-q", "-t", "peer", "-f", file,
             *_placed(case.options, context), context)
        self("push", "-q", "peer", f"oci:{layout}:peer")
        image = ocilayout.read(layout)
        if "docker" in case.options:  # what OCI's form of it, which a layout has, leaves out
            own = json.loads(self("inspect", "peer"))["Docker"]["config"]
            image.config["config"].update({key: own[key] for key in ("Healthcheck", "OnBuild", "Shell") if key in own})
        return image


@pytest.fixture(scope="module")
def buildah(busybox_archive: Path) -> Iterator[Buildah]:
    work = Path(tempfile.mkdtemp(prefix="rl-buildah-", dir="/var/tmp"))
    work.chmod(0o755)
    tool = Buildah(work)
    tool("pull", "-q", f"docker-archive:{busybox_archive}")
    yield tool
    tool("rmi", "--all", "--force")
    shutil.rmtree(work)


def _placed(options: tuple[str, ...], context: Path) -> list[str]:
    """*options* for a build in *context*: ``src=`` of a secret is relative to where the command runs."""
    return [word.replace("@CONTEXT@", str(context)).replace("src=secret", f"src={context}/secret") for word in options]


def _rl_build(rl: Rl, case: Case, context: Path, layout: Path) -> ocilayout.Image:
    file = context.with_name("Containerfile")
    file.write_text(case.containerfile, newline="")
    rl.user.run("chmod", "-R", "u+rwX", context)
    done = rl("build", "-q", "-t", "conformance", "-f", file, *_placed(case.options, context), context, env=_ENVIRONMENT)
    assert done.returncode == 0, f"{case.containerfile}\n{done.stdout}{done.stderr}"
    rl.ok("save", "-q", "--format", "oci-dir", "-o", layout, "conformance")
    return ocilayout.read(layout)


_EMPTY = hashlib.sha256().hexdigest()
_PLACEHOLDERS = ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf")
_SAME = ("architecture", "os", "variant", "author")


def _configuration(image: ocilayout.Image) -> dict[str, Any]:
    """What a container would notice. The label ``io.buildah.version`` is Buildah's signature."""
    config = {key: value for key, value in image.config["config"].items() if value not in (None, "", [], {}, False)}
    labels = {key: value for key, value in (config.pop("Labels", None) or {}).items() if key != "io.buildah.version"}
    config["Env"] = sorted(config.get("Env", []))
    for key in ("Hostname", "Domainname", "Image"):  # of Docker's format: left over from the container of the build
        config.pop(key, None)
    return {**config, "Labels": labels, **{key: image.config.get(key) or "" for key in _SAME}}


def _history(image: ocilayout.Image) -> list[tuple[str, bool]]:
    """What made each layer: Buildah names what it copied by a digest of its own."""
    entries = []
    for entry in image.config["history"]:
        words = entry.get("created_by", "")
        kind = words.partition(" in ")[0].split(" ")
        if "#(nop)" in kind and any(word in ("COPY", "ADD") for word in kind):
            words = " ".join(word.partition(":")[0] for word in kind)
        entries.append((" ".join(words.split()), bool(entry.get("empty_layer"))))
    return entries


def _tree(image: ocilayout.Image, times: bool) -> dict[str, Any]:
    """Everything but times (what RUN writes has none in common), unless the case asks for those of files."""
    found = {}
    for path, entry in image.tree.items():
        if path in ("/", "/dev", "/proc", "/sys", "/run") or path.startswith(("/dev/", "/proc/", "/sys/")):
            continue  # mount points: chroot isolation leaves them behind, rl and other isolations do not
        if path in _PLACEHOLDERS and entry.content == _EMPTY:
            continue  # so do the files it mounts over
        time = entry.mtime if times and entry.kind == "file" else 0
        found[path] = (entry.kind, oct(entry.mode), entry.uid, entry.gid, entry.content, entry.xattrs, time)
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_image_is_buildahs(rl: Rl, buildah: Buildah, case: Case) -> None:
    work = Path(tempfile.mkdtemp(prefix="rl-conformance-", dir="/var/tmp"))
    try:
        work.chmod(0o777)
        context = work / "context"
        context.mkdir()
        subprocess.run(["sh", "-ec", case.setup], cwd=context, check=True, timeout=20)
        subprocess.run(["chown", "-Rh", f"{rl.user.uid}:{rl.user.gid}", str(context)], check=True, timeout=20)
        wanted = buildah.build(case, context, work / "peer")
        found = _rl_build(rl, case, context, work / "own")
        own, peer = _configuration(found), _configuration(wanted)
        for key in case.differs - {"history"}:
            assert own.pop(key) != peer.pop(key)
        assert own == peer
        left = _tree(wanted, case.times)
        for path in case.leaves:  # of Buildah's mounts
            assert left.pop(path)[0] == "directory"
        assert _tree(found, case.times) == left
        if "history" not in case.differs:
            assert _history(found) == _history(wanted)
        if "--annotation" in case.options:
            assert found.manifest["annotations"]["org.example.a"] == wanted.manifest["annotations"]["org.example.a"]
    finally:
        shutil.rmtree(work)


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 60 and len({case.name for case in CASES}) == len(CASES)
