"""Writing saved images: docker-archive, oci-archive, oci-dir, docker-dir.

Called by ``rl save``. Streams: a layer passes through in pieces, whatever its size. A layer that is
written without its compression is verified against its diff id on the way.

Source: as rl/image/archive.py.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any

from rl.config.jsonio import dumps
from rl.config.model import ImageRecord
from rl.config.paths import Paths
from rl.errors import ConflictError, RlError, VerificationError
from rl.image import documents as d
from rl.image import store
from rl.image import tarstream as tar
from rl.image.archive import REF_NAME
from rl.image.compress import compressed
from rl.image.content import ContentStore
from rl.image.form import Form, written_as
from rl.image.streams import CHUNK, MAGIC_SIZE, Source, decompressed, kind_of

DOCKER_ARCHIVE = "docker-archive"
OCI_ARCHIVE = "oci-archive"
OCI_DIR = "oci-dir"
DOCKER_DIR = "docker-dir"
FORMATS = (DOCKER_ARCHIVE, OCI_ARCHIVE, OCI_DIR, DOCKER_DIR)

#: An image and the names it gets in the archive.
Named = tuple[ImageRecord, list[str]]


def save_archive(paths: Paths, images: list[Named], fd: int, kind: str, form: Form) -> str:
    """Write *images* as *kind* (docker-archive, oci-archive) to *fd*, a file or a pipe.

    *form* is for an OCI archive: the layers of the other one are plain. The digest of the last image's manifest, "" for
    a docker-archive, which has none. Raises RlError, VerificationError (a layer is damaged), CorruptRecordError.
    """
    out = _TarSink(fd)
    digest = ""
    if kind == DOCKER_ARCHIVE:
        _docker_archive(paths, images, out)
    else:
        digest = _oci(paths, images, out, form)
    out.end()
    return digest


def save_directory(paths: Paths, images: list[Named], path: str, kind: str, form: Form) -> str:
    """Write *images* as *kind* (oci-dir, docker-dir) to the directory *path*, new or empty.

    The digest of the last image's manifest. Raises ConflictError, RlError, VerificationError.
    """
    try:
        os.makedirs(path, exist_ok=True)
        if os.listdir(path):
            raise ConflictError(f"save to {path}: the directory is not empty", "choose a new one, or empty it")
    except OSError as error:
        raise RlError(f"save to {path}: {error.strerror}") from None
    out = _DirectorySink(path)
    if kind == OCI_DIR:
        return _oci(paths, images, out, form)
    return _docker_dir(paths, images[0][0], out, form)


# where it goes

class _Sink:
    """Files of an archive or of a directory."""

    def __init__(self) -> None:
        self.written: set[str] = set()

    def data(self, name: str, data: bytes) -> None:
        self.stream(name, len(data), iter((data,)))

    def directory(self, name: str) -> None:
        raise NotImplementedError

    def stream(self, name: str, size: int, pieces: Iterator[bytes]) -> None:
        raise NotImplementedError


class _TarSink(_Sink):
    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd
        appending = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND
        #: pwrite(2) on a descriptor opened with O_APPEND (`rl save >> file`) appends: not seekable for us.
        self.seekable = stat.S_ISREG(os.fstat(fd).st_mode) and not appending

    def _write(self, data: bytes) -> None:
        try:
            tar.write_all(self._fd, data)
        except OSError as error:
            raise RlError(f"write the archive: {error.strerror}", "save to a place with more space") from None

    def directory(self, name: str) -> None:
        self._write(tar.header(f"{name}/", 0, directory=True))

    def stream(self, name: str, size: int, pieces: Iterator[bytes]) -> None:
        """One member; *size* -1: not known before it is written, possible where the output is a file."""
        start = os.lseek(self._fd, 0, os.SEEK_CUR) if size < 0 else 0
        if size < 0:
            self._write(bytes(tar.BLOCK))  # its header follows when the size is known
        else:
            self._write(tar.header(name, size))
        count = 0
        for piece in pieces:
            self._write(piece)
            count += len(piece)
        self._write(tar.padding(count))
        if size < 0:
            os.pwrite(self._fd, tar.header(name, count), start)
        elif count != size:
            raise VerificationError(f"write {name}: {count} bytes instead of {size}", "pull the image again")

    def end(self) -> None:
        self._write(tar.END)


class _DirectorySink(_Sink):
    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def directory(self, name: str) -> None:
        os.makedirs(f"{self._path}/{name}", exist_ok=True)

    def stream(self, name: str, size: int, pieces: Iterator[bytes]) -> None:
        path = f"{self._path}/{name}"
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            try:
                for piece in pieces:
                    tar.write_all(fd, piece)
            finally:
                os.close(fd)
        except OSError as error:
            raise RlError(f"write {path}: {error.strerror}", "save to a place with more space") from None


# what goes there

def _pieces(read: Callable[[int], bytes], digest: str = "", what: str = "") -> Iterator[bytes]:
    """Everything *read* gives; VerificationError at the end where it is not *digest*."""
    found = sha256()
    while piece := read(CHUNK):
        found.update(piece)
        yield piece
    if digest and f"sha256:{found.hexdigest()}" != digest:
        raise VerificationError(f"{what} is damaged in the content store", "remove the image and pull it again")


def _plain_size(content: ContentStore, digest: str, fd: int, seekable: bool) -> int:
    """Size of the layer without its compression; -1 where it need not be known. Leaves *fd* at its start."""
    status = os.fstat(fd)
    compressed = bool(kind_of(os.pread(fd, MAGIC_SIZE, 0)))
    if not compressed:
        return status.st_size
    if seekable:
        return -1
    read, _ = decompressed(Source.of_fd(fd, digest), digest)
    count = sum(len(piece) for piece in _pieces(read))
    os.lseek(fd, 0, os.SEEK_SET)
    return count


def _docker_archive(paths: Paths, images: list[Named], out: _TarSink) -> None:
    content = ContentStore(paths)
    entries = []
    for record, names in images:
        manifest = store.manifest(paths, record)
        layers = []
        for diff_id, layer in zip(record["layers"], manifest["layers"], strict=True):
            name = f"{diff_id[7:]}.tar"
            layers.append(name)
            if name not in out.written:
                out.written.add(name)
                _plain_layer(content, layer["digest"], diff_id, name, out)
        config = f"{record['id']}.json"
        if config not in out.written:
            out.written.add(config)
            out.data(config, content.read(f"sha256:{record['id']}"))
        entries.append({"Config": config, "RepoTags": names, "Layers": layers})
    out.data("manifest.json", dumps(entries).encode())


def _plain_layer(content: ContentStore, digest: str, diff_id: str, name: str, out: _TarSink) -> None:
    fd = content.open(digest)
    try:
        size = _plain_size(content, digest, fd, out.seekable)
        read, _ = decompressed(Source.of_fd(fd, f"layer {digest}"), f"layer {digest}")
        out.stream(name, size, _pieces(read, diff_id, f"layer {digest}"))
    finally:
        os.close(fd)


def _oci(paths: Paths, images: list[Named], out: _Sink, form: Form) -> str:
    out.directory("blobs")
    out.directory("blobs/sha256")
    content = ContentStore(paths)
    descriptors: list[dict[str, Any]] = []
    digest = ""
    for record, names in images:
        data = _image(content, record, out, "blobs/sha256/", Form("oci", form.compression, form.level, form.force))
        digest = f"sha256:{sha256(data).hexdigest()}"
        _blob_bytes(out, "blobs/sha256/", digest, data)
        descriptor: dict[str, Any] = {"mediaType": d.OCI_MANIFEST, "digest": digest, "size": len(data)}
        descriptors += [{**descriptor, "annotations": {REF_NAME: name}} for name in names] or [descriptor]
    out.data("index.json", dumps({"schemaVersion": 2, "mediaType": d.OCI_INDEX, "manifests": descriptors}).encode())
    out.data("oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
    return digest


def _docker_dir(paths: Paths, record: ImageRecord, out: _Sink, form: Form) -> str:
    data = _image(ContentStore(paths), record, out, "", form)
    out.data("manifest.json", data)
    out.data("version", b"Directory Transport Version: 1.1\n")
    return f"sha256:{sha256(data).hexdigest()}"


def _image(content: ContentStore, record: ImageRecord, out: _Sink, prefix: str, form: Form) -> bytes:
    """Write config and layers of an image; its manifest."""
    data = content.read(record["manifest"])
    manifest = d.parse_manifest(data, f"manifest {record['manifest']}")
    format = form.format_of(manifest)
    layers = [
        _blob(content, layer["digest"], diff_id, out, prefix, form)
        for layer, diff_id in zip(manifest["layers"], record["layers"], strict=True)
    ]
    _blob_bytes(out, prefix, f"sha256:{record['id']}", content.read(f"sha256:{record['id']}"))
    return written_as(data, manifest, layers, format)[0]


def _blob_bytes(out: _Sink, prefix: str, digest: str, data: bytes) -> None:
    name = prefix + digest[7:]
    if name not in out.written:
        out.written.add(name)
        out.data(name, data)


def _blob(
    content: ContentStore, digest: str, diff_id: str, out: _Sink, prefix: str, form: Form
) -> tuple[dict[str, Any], str]:
    """Write one layer, compressed as *form* says; what its descriptor says, and its compression."""
    fd = content.open(digest)
    try:
        written: dict[str, Any] = {"digest": digest, "size": os.fstat(fd).st_size}
        kind = kind_of(os.pread(fd, MAGIC_SIZE, 0))
        wanted = form.wanted(kind)
        what = f"layer {digest}"
        if wanted != kind:
            read, _ = decompressed(Source.of_fd(fd, what), what)
            made, written = compressed(content.paths.content, read, wanted, form.level, plain=diff_id)
            os.close(fd)
            fd, digest = made, written["digest"]
        if prefix + digest[7:] not in out.written:
            out.written.add(prefix + digest[7:])
            out.stream(prefix + digest[7:], written["size"], _pieces(Source.of_fd(fd, what).read, digest, what))
    finally:
        os.close(fd)
    return written, wanted
