"""The tools of the field with the same three words for each: take an image in, write it out, tell its id.

Podman, Buildah and Skopeo run as root in stores of their own; rl runs as the test's user. A *place* is a reference
with a transport (containers-transports(5)): ``oci:/path:tag``, ``docker-archive:/path``, ``docker://host/name``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any, Protocol

from system.conftest import Rl


class Tool(Protocol):
    name: str

    def take(self, place: str) -> str:
        """Read the image at *place* into the tool's store; its id (the config's digest, 64 digits)."""

    def write(self, image_id: str, place: str, *options: str) -> None: ...


def run(*words: str | Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
        env={**os.environ, **(env or {})},
    )
    assert done.returncode == 0, f"{' '.join(map(str, words))}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


class Podman:
    """podman(1) or, as *program*, buildah(1): both have pull and push for every transport."""

    def __init__(self, program: str, work: Path) -> None:
        self.name = program
        self._work = work / program
        self._work.mkdir()
        self._words = [program, "--root", str(self._work / "root"), "--runroot", str(self._work / "run"),
                       "--storage-driver", "overlay"]

    def take(self, place: str) -> str:
        flags = ["--tls-verify=false"] if place.startswith("docker://") else []
        return run(*self._words, "pull", "-q", *flags, place, env={"TMPDIR": str(self._work)}).split("\n")[-1].removeprefix("sha256:")

    def write(self, image_id: str, place: str, *options: str) -> None:
        flags = ["--tls-verify=false"] if place.startswith("docker://") else []
        run(*self._words, "push", "-q", *flags, *options, image_id, place, env={"TMPDIR": str(self._work)})

    def close(self) -> None:
        run(*self._words, "rmi", "--all", "--force")


class Skopeo:
    """skopeo(1) has no store: what it takes in is kept as an OCI layout or, as Docker's manifest, a dir: directory."""

    name = "skopeo"

    def __init__(self, work: Path) -> None:
        self._work = work / "skopeo"
        self._work.mkdir()

    def take(self, place: str) -> str:
        data = self._work / "taken"
        shutil.rmtree(data, ignore_errors=True)
        run("skopeo", "copy", "-q", "--src-tls-verify=false", place, f"dir:{data}")
        image_id = str(json.loads((data / "manifest.json").read_text())["config"]["digest"]).removeprefix("sha256:")
        if not (self._work / image_id).exists():
            data.rename(self._work / image_id)
        return image_id

    def write(self, image_id: str, place: str, *options: str) -> None:
        run("skopeo", "copy", "-q", "--dest-tls-verify=false", *options, f"dir:{self._work / image_id}", place)


class Umoci:
    """umoci(1) unpacks and repacks OCI layouts."""

    name = "umoci"

    def __init__(self, work: Path, key: str) -> None:
        self._work = work / f"umoci-{key}"
        self._work.mkdir()

    def take(self, place: str) -> str:
        layout = place.removeprefix("oci:").rpartition(":")[0]
        bundle = self._work / "bundle"
        shutil.rmtree(bundle, ignore_errors=True)
        run("umoci", "unpack", "--image", place.removeprefix("oci:"), bundle)
        return facts(Path(layout))[0]


class RlTool:
    name = "rl"

    def __init__(self, rl: Rl) -> None:
        self._rl = rl

    def take(self, place: str) -> str:
        return self._rl.ok("pull", "-q", place).split("\n")[-1]

    def write(self, image_id: str, place: str, *options: str) -> None:
        self._rl.ok("push", "-q", *options, image_id, place)


def facts(path: Path) -> tuple[str, list[str]]:
    """(id, diff ids) of the one image saved at *path*, read without any of the tools."""
    if path.is_dir():
        def get(name: str) -> bytes:
            return (path / name).read_bytes()

        names = {str(file.relative_to(path)) for file in path.rglob("*")}
    else:
        tar = tarfile.open(path)
        names = {member.name.removeprefix("./") for member in tar}

        def get(name: str) -> bytes:
            file = tar.extractfile(name)
            assert file is not None
            return file.read()

    config = _config(names, get)
    return hashlib.sha256(config).hexdigest(), json.loads(config)["rootfs"]["diff_ids"]


def _config(names: set[str], get: Any) -> bytes:
    blobs = "blobs/sha256/" if "index.json" in names else ""
    if blobs:
        [descriptor] = json.loads(get("index.json"))["manifests"]
        manifest = json.loads(get(blobs + descriptor["digest"][7:]))
    else:
        manifest = json.loads(get("manifest.json"))
    data: bytes = get(manifest[0]["Config"]) if isinstance(manifest, list) else get(blobs + manifest["config"]["digest"][7:])
    return data
