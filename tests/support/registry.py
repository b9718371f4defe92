"""Real registries for the tests: Debian's docker-registry on 127.0.0.1, plain or with TLS and passwords.

    with Registry(tmp_path) as registry:                    # plain
        registry.push_archive(archive, "nginx")             # with skopeo
        image = registry.push(["layer bytes", …], "app:1")  # made here, byte by byte
    with Registry(tmp_path, tls=True, users={"ann": "secret"}) as registry: …
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.client
import io
import json
import shutil
import socket
import ssl
import subprocess
import tarfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OCI = "application/vnd.oci.image"
DOCKER = "application/vnd.docker"


def missing_programs(*more: str) -> str:
    """The first program that these registries need and this machine lacks, or ""."""
    for program in ("docker-registry", "openssl", *more):
        if not shutil.which(program):
            return program
    return ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_certificate(directory: Path, name: str = "127.0.0.1") -> tuple[Path, Path]:
    """(certificate, key): self-signed, for 127.0.0.1 and localhost."""
    certificate, key = directory / "tls.crt", directory / "tls.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )
    return certificate, key


def layer(files: Mapping[str, bytes]) -> bytes:
    """A tar archive of regular files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o755
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass
class Image:
    """An image as documents: what :func:`make_image` builds and :meth:`Registry.put` uploads."""

    manifest: bytes
    media_type: str
    config: bytes
    blobs: list[bytes]
    diff_ids: list[str]
    platform: dict[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)

    @property
    def id(self) -> str:
        return digest_of(self.config)[7:]

    @property
    def descriptor(self) -> dict[str, Any]:
        size = len(self.manifest)
        return {"mediaType": self.media_type, "digest": self.digest, "size": size, "platform": self.platform}


def make_image(
    layers: Sequence[bytes],
    *,
    platform: str = "linux/amd64",
    docker: bool = False,
    config: Mapping[str, Any] | None = None,
    compress: bool = True,
) -> Image:
    """An image of *layers* (tar archives), in OCI or Docker's format."""
    operating_system, architecture, variant = (platform.split("/") + [""])[:3]
    where = {"os": operating_system, "architecture": architecture, **({"variant": variant} if variant else {})}
    diff_ids = [digest_of(data) for data in layers]
    blobs = [gzip.compress(data, 1, mtime=0) if compress else data for data in layers]
    document = json.dumps({
        **where, "created": "2026-01-01T00:00:00Z", "config": dict(config or {"Cmd": ["/hello"]}),
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }).encode()
    kinds = (f"{OCI}.manifest.v1+json", f"{OCI}.config.v1+json", f"{OCI}.layer.v1.tar")
    if docker:
        names = ("distribution.manifest.v2+json", "container.image.v1+json", "image.rootfs.diff.tar")
        kinds = (f"{DOCKER}.{names[0]}", f"{DOCKER}.{names[1]}", f"{DOCKER}.{names[2]}")
    suffix = "" if not compress else ".gzip" if docker else "+gzip"
    manifest = json.dumps({
        "schemaVersion": 2, "mediaType": kinds[0],
        "config": {"mediaType": kinds[1], "digest": digest_of(document), "size": len(document)},
        "layers": [{"mediaType": kinds[2] + suffix, "digest": digest_of(blob), "size": len(blob)} for blob in blobs],
    }).encode()
    return Image(manifest, kinds[0], document, blobs, diff_ids, where)


def make_index(images: Sequence[Image], docker: bool = False) -> tuple[bytes, str]:
    """(index, its media type)."""
    kind = f"{DOCKER}.distribution.manifest.list.v2+json" if docker else f"{OCI}.index.v1+json"
    document = {"schemaVersion": 2, "mediaType": kind, "manifests": [image.descriptor for image in images]}
    return json.dumps(document).encode(), kind


class Registry:
    """A running docker-registry; a context manager. ``host`` is 127.0.0.1:PORT, ``ca`` its certificate."""

    def __init__(self, directory: Path, *, tls: bool = False, users: Mapping[str, str] | None = None) -> None:
        self.directory = directory / f"registry-{time.monotonic_ns()}"
        self.directory.mkdir(parents=True)
        self.users = dict(users or {})
        self.tls = tls
        self.ca = self.key = Path()
        if tls:
            self.ca, self.key = make_certificate(self.directory)
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def __enter__(self) -> Registry:
        for _ in range(5):
            self.port = free_port()
            self.start()
            if self._answers():
                return self
            self.stop()
        raise AssertionError(f"docker-registry does not start:\n{self.log}")

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it (again), on the same port and with the same content."""
        (self.directory / "config.json").write_text(json.dumps(self._configuration()))  # JSON is YAML
        log = open(self.directory / "log", "ab")
        with log:
            self._process = subprocess.Popen(
                ["docker-registry", "serve", str(self.directory / "config.json")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.directory,
            )

    def stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _configuration(self) -> dict[str, Any]:
        http_part: dict[str, Any] = {"addr": self.host, "secret": "test"}
        if self.tls:
            http_part["tls"] = {"certificate": str(self.ca), "key": str(self.key)}
        document: dict[str, Any] = {
            "version": "0.1", "log": {"level": "warn"}, "http": http_part,
            "storage": {"filesystem": {"rootdirectory": str(self.directory / "data")}, "delete": {"enabled": True}},
        }
        if self.users:
            passwords = self.directory / "htpasswd"
            passwords.unlink(missing_ok=True)
            for number, (user, password) in enumerate(self.users.items()):
                create = ["-c"] if number == 0 else []
                command = ["htpasswd", *create, "-bB", "-C", "4", str(passwords), user, password]
                subprocess.run(command, check=True, capture_output=True)
            document["auth"] = {"htpasswd": {"realm": "test", "path": str(passwords)}}
        return document

    def _answers(self) -> bool:
        for _ in range(200):
            if self._process is None or self._process.poll() is not None:
                return False
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return True
            except OSError:
                time.sleep(0.05)
        return False

    # filling it

    def push_archive(self, archive: Path, name: str) -> str:
        """Push a docker-archive (or a ``transport:path``) with skopeo; the full name."""
        source = str(archive) if ":" in str(archive) else f"docker-archive:{archive}"
        command = ["skopeo", "copy", "--quiet", "--insecure-policy"]
        command += ["--dest-cert-dir", str(self.cert_dir)] if self.tls else ["--dest-tls-verify=false"]
        for user, password in list(self.users.items())[:1]:
            command += ["--dest-creds", f"{user}:{password}"]
        target = f"{self.host}/{name}"
        subprocess.run([*command, source, f"docker://{target}"], check=True, capture_output=True)
        return target

    @property
    def cert_dir(self) -> Path:
        """A directory for ``--cert-dir`` options: the certificate as ca.crt, and nothing else."""
        directory = self.directory / "certs"
        directory.mkdir(exist_ok=True)
        (directory / "ca.crt").write_bytes(self.ca.read_bytes())
        return directory

    def push(self, layers: Sequence[bytes], name: str, **how: Any) -> Image:
        """Make an image of tar archives and push it as *name* (repository:tag)."""
        image = make_image(layers, **how)
        self.put(image, name)
        return image

    def put(self, image: Image, name: str) -> str:
        """Upload an image; the digest of its manifest."""
        repository, _, tag = name.partition(":")
        for blob in [image.config, *image.blobs]:
            self.put_blob(repository, blob)
        return self.put_manifest(repository, tag or "latest", image.manifest, image.media_type)

    def push_index(self, images: Sequence[Image], name: str, docker: bool = False) -> str:
        """Upload an image for several platforms; the digest of its index."""
        repository, _, tag = name.partition(":")
        for image in images:
            for blob in [image.config, *image.blobs]:
                self.put_blob(repository, blob)
            self.put_manifest(repository, image.digest, image.manifest, image.media_type)
        return self.put_manifest(repository, tag or "latest", *make_index(images, docker))

    def put_blob(self, repository: str, data: bytes) -> str:
        status, headers = self.request("POST", f"/v2/{repository}/blobs/uploads/")
        assert status == 202, (status, headers)
        location = headers["Location"]
        path = location.partition(self.host)[2] or location
        path += ("&" if "?" in path else "?") + f"digest={digest_of(data)}"
        status, _ = self.request("PUT", path, data, {"Content-Type": "application/octet-stream"})
        assert status == 201, status
        return digest_of(data)

    def put_manifest(self, repository: str, reference: str, data: bytes, media_type: str) -> str:
        status, headers = self.request(
            "PUT", f"/v2/{repository}/manifests/{reference}", data, {"Content-Type": media_type}
        )
        assert status == 201, (status, headers)
        return digest_of(data)

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Mapping[str, str]]:
        """(status, headers) of one request, with the first user's password."""
        sent = dict(headers or {})
        for user, password in list(self.users.items())[:1]:
            sent["Authorization"] = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        connection: http.client.HTTPConnection
        if self.tls:
            context = ssl.create_default_context(cafile=str(self.ca))
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=20, context=context)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            answer.read()
            return answer.status, dict(answer.getheaders())
        finally:
            connection.close()

    # spoiling it

    def blob_file(self, digest: str) -> Path:
        """Where the registry keeps a blob: to damage it."""
        value = digest.partition(":")[2]
        return self.directory / f"data/docker/registry/v2/blobs/sha256/{value[:2]}/{value}/data"
