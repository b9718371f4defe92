"""What one tool writes the others read: rl, Podman, Buildah, Skopeo, umoci and docker-registry, each format and compression.

An image with all that a layer can hold is taken in by a writer, written in a format, and read by every reader; each
must come to the id that the written configuration has, and the layers must be the same ones (a reader checks every
layer against its diff id).
"""

from __future__ import annotations

import hashlib
import io
import json
import secrets
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from interop.tools import Podman, RlTool, Skopeo, Tool, Umoci, facts, run
from support.registry import OCI, Registry, make_image
from system.conftest import Rl


def _tar(*members: tuple[str, dict[str, object], bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, fields, data in members:
            member = tarfile.TarInfo(name)
            member.mode, member.size = 0o644, len(data)
            for key, value in fields.items():
                setattr(member, key, value)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


_LAYERS = [
    _tar(("etc", {"type": tarfile.DIRTYPE, "mode": 0o755}, b""), ("etc/passwd", {}, b"root:x:0:0::/:/bin/sh\n"),
         ("etc/old", {}, b"gone later\n"), ("dir", {"type": tarfile.DIRTYPE, "mode": 0o1777}, b""), ("dir/a", {}, b"a" * 70000)),
    _tar(("etc/.wh.old", {}, b""), ("dir/.wh..wh..opq", {}, b""), ("dir/b", {"uid": 1000, "gid": 1000, "mode": 0o4755}, b"b" * 300),
         ("dir/hard", {"type": tarfile.LNKTYPE, "linkname": "dir/b"}, b""), ("link", {"type": tarfile.SYMTYPE, "linkname": "etc/passwd"}, b"")),
    _tar(("ü" * 60 + "/" + "x" * 90, {"pax_headers": {"SCHILY.xattr.user.note": "kept"}, "mtime": 1600000000.5}, b"long name\n"),
         ("fifo", {"type": tarfile.FIFOTYPE}, b"")),
]


@dataclass
class Bench:
    """All tools, and the image as an OCI layout and as Docker's manifest in a directory."""

    work: Path
    tools: dict[str, Tool]
    registry: Registry
    diff_ids: list[str]

    def source(self, docker: bool) -> str:
        return f"dir:{self.work}/docker" if docker else f"oci:{self.work}/oci:latest"


def _write_sources(work: Path) -> list[str]:
    for docker in (False, True):
        image = make_image(_LAYERS, docker=docker)
        directory = work / ("docker" if docker else "oci")
        blobs = directory if docker else directory / "blobs/sha256"
        blobs.mkdir(parents=True)
        for blob in (image.config, *image.blobs, *([] if docker else [image.manifest])):
            (blobs / hashlib.sha256(blob).hexdigest()).write_bytes(blob)
        if docker:
            (directory / "manifest.json").write_bytes(image.manifest)
            (directory / "version").write_text("Directory Transport Version: 1.1\n")
            continue
        named = {**image.descriptor, "annotations": {"org.opencontainers.image.ref.name": "latest"}}
        index = {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": [named]}
        (directory / "index.json").write_text(json.dumps(index))
        (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return image.diff_ids


@pytest.fixture(scope="module")
def bench(rl: Rl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    # Podman makes names of images of this path: tempfile's own "_" would not always be legal in one.
    work = Path(f"/var/tmp/rl-interop-{secrets.token_hex(4)}")
    work.mkdir(0o700)
    work.chmod(0o777)
    diff_ids = _write_sources(work)
    podman, buildah = Podman("podman", work), Podman("buildah", work)
    tools: dict[str, Tool] = {"podman": podman, "buildah": buildah, "skopeo": Skopeo(work), "rl": RlTool(rl)}
    with Registry(tmp_path_factory.mktemp("registry")) as registry:
        yield Bench(work, tools, registry, diff_ids)
    podman.close()
    buildah.close()
    shutil.rmtree(work)


FORMATS = ("docker-archive", "oci-archive", "oci", "dir")


def _place(kind: str, path: Path) -> str:
    return f"{kind}:{path}" if kind in ("dir", "docker-archive") else f"{kind}:{path}:latest"


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("writer", ("rl", "podman", "buildah", "skopeo"))
@pytest.mark.parametrize("source", ("oci", "docker"))
def test_saved(bench: Bench, rl: Rl, source: str, writer: str, kind: str) -> None:
    path = bench.work / f"{source}-{writer}-{kind}"
    tool = bench.tools[writer]
    tool.write(tool.take(bench.source(source == "docker")), _place(kind, path))
    wanted, diff_ids = facts(path)
    assert diff_ids == bench.diff_ids
    run("chmod", "-R", "a+rX", path)
    readers: list[Tool] = list(bench.tools.values())
    place = _place(kind, path)
    if kind == "oci":
        readers.append(Umoci(bench.work, path.name))
    found = {reader.name: reader.take(place) for reader in readers}
    assert found == dict.fromkeys(found, wanted)


#: (writer, options): how what goes to the registry is written
PUSHES = [
    # Skopeo first: it remembers zstd blobs of a registry and then puts them into Docker's manifests, which it refuses
    ("skopeo", ("--format", "oci")), ("skopeo", ("--format", "v2s2")), ("skopeo", ("--format", "oci", "--dest-compress-format", "zstd")),
    *((name, ("--format", form)) for name in ("rl", "podman", "buildah") for form in ("oci", "v2s2")),
    *((name, ("--format", "oci", "--compression-format", kind)) for name in ("rl", "podman") for kind in ("gzip", "zstd")),
    ("rl", ("--format", "oci", "--compression-format", "gzip", "--force-compression", "--compression-level", "9")),
    ("rl", ("--format", "oci", "--compression-format", "zstd", "--force-compression")),
    *((name, ("--format", "oci", "--compression-format", "zstd:chunked")) for name in ("rl", "podman")),
    ("rl", ("--format", "oci", "--compression-format", "zstd:chunked", "--force-compression")),
]


@pytest.mark.parametrize(("writer", "options"), PUSHES, ids=lambda value: value if isinstance(value, str) else "".join(value).replace("--", "-"))
def test_pushed(bench: Bench, rl: Rl, writer: str, options: tuple[str, ...]) -> None:
    tool = bench.tools[writer]
    place = f"docker://{bench.registry.host}/{writer}/x{abs(hash(options)) % 10**8}:1"
    tool.write(tool.take(bench.source(False)), place, *options)
    manifest = json.loads(run("skopeo", "inspect", "--raw", "--tls-verify=false", place))
    wanted = manifest["config"]["digest"].removeprefix("sha256:")
    if "oci" in options:
        assert manifest["config"]["mediaType"] == f"{OCI}.config.v1+json"
    if "--force-compression" in options:
        assert {layer["mediaType"].rpartition("+")[2] for layer in manifest["layers"]} <= {"gzip", "zstd"}
    rl("rmi", "--all", "--force")
    found = {reader.name: reader.take(place) for reader in bench.tools.values()}
    assert found == dict.fromkeys(found, wanted)
