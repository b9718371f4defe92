"""The image store: one record per name, and finding an image by whatever its user typed.

A record is ``images/<file>``: '/' written as '+' and ':' as ',' (neither occurs in a reference), so
``docker.io+library+nginx,latest``. An image that lost its last name is ``@<id>``. What does not fit a
file name ends in ``~`` and a hash; the record itself has the full name. An image is its config digest
(the id), as in Podman: all records with one id are one image.

On the hot path of ``rl run`` and ``rl images``: a name is found by opening one file.
"""

from __future__ import annotations

import errno
import os
import time

from rl.config.jsonio import dumps, loads, write_atomic
from rl.errors import AmbiguousNameError, CorruptRecordError, NoSuchImageError, RlError, UsageError, VerificationError
from rl.image import reference
from rl.image.content import ContentStore, records_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from rl.config.model import ImageRecord
    from rl.config.paths import Paths

_HEX = frozenset("0123456789abcdef")
_LONGEST = 200  # of a file name; leaves room for the suffix of temporary files
#: Shorter than this, hexadecimal digits are never taken for the beginning of an id.
SHORTEST_PREFIX = 3
_CORRUPT_HINT = "remove it (rl rmi --force NAME) and pull or load the image again; other images are not affected"


def file_name(name: str) -> str:
    """The file of the record *name* (a full reference, or ``@<id>``)."""
    quoted = name.replace("/", "+").replace(":", ",")
    if len(quoted) <= _LONGEST:
        return quoted
    from hashlib import sha256

    return f"{quoted[:120]}~{sha256(name.encode()).hexdigest()}"


def record_name(file: str) -> str:
    """The name a file stands for; "" where only the record itself has all of it."""
    return "" if "~" in file else file.replace("+", "/").replace(",", ":")


# reading

def read_record(paths: Paths, file: str) -> ImageRecord:
    """The record in ``images/<file>``. Raises FileNotFoundError, CorruptRecordError naming the file."""
    path = f"{paths.images}/{file}"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.read(fd, 1 << 20)
        finally:
            os.close(fd)
        record = loads(data.decode())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CorruptRecordError(f"read image record {path}: {error.strerror}", _CORRUPT_HINT) from None
    except ValueError as error:
        raise CorruptRecordError(f"read image record {path}: {error}", _CORRUPT_HINT) from None
    if not _is_record(record) or file_name(record["name"] or f"@{record['id']}") != file:
        raise CorruptRecordError(f"read image record {path}: it is not the record of this image", _CORRUPT_HINT)
    return record  # type: ignore[no-any-return]


def _is_record(record: Any) -> bool:
    try:
        name, digest, image_id = record["name"], record["manifest"], record["id"]
        return (
            isinstance(name, str)
            and isinstance(record["size"], int)
            and isinstance(record["created"], str)
            and isinstance(record["layers"], list)
            and len(image_id) == 64
            and _HEX.issuperset(image_id)
            and len(digest) == 71
            and digest.startswith("sha256:")
            and _HEX.issuperset(digest[7:])
        )
    except (TypeError, KeyError, AttributeError):
        return False


def _files(paths: Paths) -> list[str]:
    try:
        return [name for name in os.listdir(paths.images) if name[0] != "."]
    except FileNotFoundError:
        return []


def list_images(paths: Paths) -> tuple[list[ImageRecord], list[CorruptRecordError]]:
    """Every record, in no order, and what is wrong with those that cannot be read."""
    records, errors = [], []
    for file in _files(paths):
        try:
            records.append(read_record(paths, file))
        except FileNotFoundError:
            continue  # removed meanwhile
        except CorruptRecordError as error:
            errors.append(error)
    return records, errors


def manifest(paths: Paths, record: ImageRecord) -> dict[str, Any]:
    """The manifest of the image. Raises CorruptRecordError where the blob is gone or broken."""
    return _document(paths, record["manifest"], "manifest", record)


def config(paths: Paths, record: ImageRecord) -> dict[str, Any]:
    """The image configuration: ``config``, ``rootfs``, ``history``, ``architecture``, … Raises CorruptRecordError."""
    return _document(paths, f"sha256:{record['id']}", "config", record)


def _document(paths: Paths, digest: str, what: str, record: ImageRecord) -> dict[str, Any]:
    path = f"{paths.blobs}/{digest[7:]}"
    name = record["name"] or record["id"][:12]
    hint = f"get it again: rl pull {name}" if record["name"] else f"remove it: rl rmi {name}"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            chunks = []
            while chunk := os.read(fd, 1 << 16):
                chunks.append(chunk)
        finally:
            os.close(fd)
        document = loads(b"".join(chunks).decode())
    except OSError as error:
        raise CorruptRecordError(f"read the {what} of image {name}, {path}: {error.strerror}", hint) from None
    except ValueError as error:
        raise CorruptRecordError(f"read the {what} of image {name}, {path}: {error}", hint) from None
    if not isinstance(document, dict):
        raise CorruptRecordError(f"read the {what} of image {name}, {path}: not a JSON object", hint)
    return document


# finding

def find(paths: Paths, text: str) -> ImageRecord:
    """The record of the image *text* names.

    In this order: the exact name; a short name, completed with localhost/, then docker.io/(library/),
    then any registry that has it when that is one image; ``name@digest``; the id, its beginning (three
    digits or more), with or without ``sha256:``; the digest of a manifest.
    Raises NoSuchImageError, AmbiguousNameError, CorruptRecordError (of exactly that image), UsageError.
    """
    if not text:
        raise UsageError("an empty string is not an image", "`rl images` lists all images")
    digits = text[7:] if text.startswith("sha256:") else text
    is_id = _HEX.issuperset(digits) and SHORTEST_PREFIX <= len(digits) <= 64
    if digits is text and len(text) < 64:
        try:
            wanted = reference.parse(text)
        except UsageError:
            if not is_id:
                raise
        else:
            record = _by_reference(paths, wanted)
            if record:
                return record
    if is_id:
        record = _by_id(paths, digits)
        if record:
            return record
    elif digits is text and len(text) >= 64:
        record = _by_reference(paths, reference.parse(text))
        if record:
            return record
    raise NoSuchImageError(
        f"{text}: image not known", f"`rl images` lists what is here, `rl pull {text}` fetches it from a registry"
    )


def _by_reference(paths: Paths, wanted: reference.Reference) -> ImageRecord | None:
    if wanted.digest:
        return _by_digest(paths, wanted)
    full = wanted.with_default_tag()
    if full.registry:
        return _by_name(paths, str(full))
    for registry in (reference.LOCALHOST, reference.DOCKER):
        record = _by_name(paths, str(full.with_registry(registry)))
        if record:
            return record
    ending = "+" + file_name(str(full))
    matches = [file for file in _files(paths) if file.endswith(ending)]
    found = _read_all(paths, matches)
    if len({record["id"] for record in found}) > 1:
        names = ", ".join(sorted(record["name"] for record in found))
        raise AmbiguousNameError(f"the short name {full} fits more than one image: {names}", "give the full name")
    return min(found, key=_name_of) if found else None


def _name_of(record: ImageRecord) -> str:
    return record["name"]


def _by_name(paths: Paths, name: str) -> ImageRecord | None:
    try:
        return read_record(paths, file_name(name))
    except FileNotFoundError:
        return None


def _by_digest(paths: Paths, wanted: reference.Reference) -> ImageRecord | None:
    """The image with this manifest (or list) that has, or had, a name in this repository."""
    exact = _by_name(paths, str(wanted.without_tag()))
    if exact:
        return exact
    names = [wanted.name] if wanted.registry else [wanted.with_registry(r).name for r in ("localhost", "docker.io")]
    for record in _read_all(paths, _files(paths)):
        if wanted.digest not in all_digests(record):
            continue
        own = [record["name"], *record.get("history", ()), *record.get("digests", ())]
        repositories = {_repository(name) for name in own if name}
        if not repositories.isdisjoint(names):
            return record
        if not wanted.registry and any(name.endswith(f"/{wanted.repository}") for name in repositories):
            return record
    return None


def all_digests(record: ImageRecord) -> list[str]:
    """Every manifest digest under which the image is known, its own first."""
    found = [record["manifest"]]
    if record.get("index"):
        found.append(record["index"])
    for name in record.get("digests", ()):
        digest = name.rpartition("@")[2]
        if digest not in found:
            found.append(digest)
    return found


def _repository(name: str) -> str:
    name = name.partition("@")[0]
    return name.rpartition(":")[0] if name.rfind(":") > name.rfind("/") else name


def _by_id(paths: Paths, digits: str) -> ImageRecord | None:
    found = [r for r in _read_all(paths, _files(paths)) if r["id"].startswith(digits)]
    if not found and len(digits) == 64:
        found = [r for r in _read_all(paths, _files(paths)) if f"sha256:{digits}" in all_digests(r)]
    ids = {record["id"] for record in found}
    if len(ids) > 1:
        raise AmbiguousNameError(
            f"{len(ids)} images have an ID that begins with {digits}", "give more of the ID, or a name"
        )
    return min(found, key=_name_of) if found else None


def _read_all(paths: Paths, files: Iterable[str]) -> list[ImageRecord]:
    """The records that can be read: a broken one must not hide the others."""
    found = []
    for file in files:
        try:
            found.append(read_record(paths, file))
        except (FileNotFoundError, CorruptRecordError):
            continue
    return found


def forget_corrupt(paths: Paths, text: str) -> bool:
    """Delete the damaged record of the name *text*; whether there was one. Under the records lock."""
    try:
        full = reference.parse(text).with_default_tag()
    except UsageError:
        return False
    registries = [full.registry] if full.registry else [reference.LOCALHOST, reference.DOCKER]
    for registry in registries:
        file = file_name(str(full.with_registry(registry)))
        try:
            read_record(paths, file)
        except FileNotFoundError:
            continue
        except CorruptRecordError:
            _unlink(paths, file)
            return True
    return False


def is_name_of(text: str, found: ImageRecord) -> bool:
    """Whether *text* was taken for a name: not for (the beginning of) an id, nor for a digest."""
    if not found["name"]:
        return False
    try:
        wanted = reference.parse(text)
    except UsageError:
        return False
    if wanted.digest:
        return found["name"].endswith("@" + wanted.digest)
    full = str(wanted.with_default_tag())
    return found["name"] == full or found["name"].endswith("/" + full)


def same_image(paths: Paths, image_id: str) -> list[ImageRecord]:
    """All records of the image with this full id, the named ones by name."""
    return sorted((r for r in _read_all(paths, _files(paths)) if r["id"] == image_id), key=_name_of)


# changing: under records_lock(paths, exclusive=True), which the functions without _locked take themselves

def add(
    paths: Paths,
    name: str,
    manifest_digest: str,
    index_digest: str = "",
    *,
    digests: list[str] | None = None,
    size: int = -1,
) -> ImageRecord:
    """Record that *name* (full, with tag or digest; "" = no name) is the image with this manifest.

    Its manifest and config must be in the content store; *index_digest* is the list it was chosen from;
    *digests* are repo digests (``name@sha256:…``), worked out from *name* when None; *size* is the
    unpacked size in bytes, else the unpacked layers are asked, else the compressed sizes are added up.
    The name moves when it was another image's; that one stays, without it. The caller holds
    :func:`rl.image.content.adding` since it stored the first blob. Raises VerificationError.
    """
    from rl.image.documents import parse_config, parse_manifest

    content = ContentStore(paths)
    document = parse_manifest(content.read(manifest_digest), f"manifest {manifest_digest}")
    config_digest = document["config"]["digest"]
    configuration = parse_config(content.read(config_digest), f"image config {config_digest}", len(document["layers"]))
    layers: list[str] = configuration["rootfs"]["diff_ids"]
    for layer in document["layers"]:
        if not content.has(layer["digest"], layer["size"]):
            raise VerificationError(f"layer {layer['digest']} of {name or manifest_digest} is not in the content store")
    if digests is None:
        digests = _repo_digests(name, [manifest_digest, index_digest])
    if size < 0:
        size = unpacked_size(paths, layers)
    if size < 0:
        size = sum(layer["size"] for layer in document["layers"])
    record: ImageRecord = {
        "name": name,
        "manifest": manifest_digest,
        "index": index_digest,
        "id": config_digest[7:],
        "created": configuration.get("created") or "1970-01-01T00:00:00Z",
        "pulled": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "size": size,
        "layers": layers,
        "digests": digests,
        "history": [name] if name else [],
    }
    with records_lock(paths, exclusive=True):
        put_locked(paths, record)
    return record


def _repo_digests(name: str, digests: list[str]) -> list[str]:
    if not name:
        return []
    return [f"{_repository(name)}@{digest}" for digest in dict.fromkeys(digests) if digest]


def unpacked_size(paths: Paths, layers: list[str]) -> int:
    """Bytes of these layers as their layer.json files tell it; -1 where one is not unpacked."""
    from rl.config.jsonio import read_json

    total = 0
    for diff_id in layers:
        try:
            total += int(read_json(f"{paths.layers}/{diff_id[7:]}/layer.json")["size"])
        except (OSError, ValueError, KeyError, TypeError):
            return -1
    return total


def put_locked(paths: Paths, record: ImageRecord) -> None:
    """Write *record*; the image that had its name before keeps its blobs, as an image without a name."""
    name = record["name"]
    previous = _readable(paths, name) if name else None
    if previous and previous["id"] != record["id"]:
        drop_locked(paths, previous)
    elif previous:
        record["history"] = list(dict.fromkeys([*record.get("history", []), *previous.get("history", [])]))
        record["digests"] = list(dict.fromkeys([*record["digests"], *previous.get("digests", [])]))
    if not name and any(r["name"] for r in same_image(paths, record["id"])):
        return  # the image has names: it needs no nameless record
    _write(paths, file_name(name or f"@{record['id']}"), record)
    if name:
        _unlink(paths, file_name(f"@{record['id']}"))


def drop_locked(paths: Paths, record: ImageRecord, keep: bool = True) -> bool:
    """Take the record's name away; whether the image has no name any more.

    With *keep*, an image that lost its last name stays as a nameless one.
    """
    others = [other for other in same_image(paths, record["id"]) if other["name"] != record["name"]]
    if record["name"] and not others and keep:
        nameless: ImageRecord = dict(record)  # type: ignore[assignment]
        nameless["name"] = ""
        nameless["digests"] = []
        nameless["history"] = list(dict.fromkeys([record["name"], *record.get("history", [])]))
        _write(paths, file_name(f"@{record['id']}"), nameless)
    _unlink(paths, file_name(record["name"] or f"@{record['id']}"))
    return not others


def _readable(paths: Paths, name: str) -> ImageRecord | None:
    try:
        return read_record(paths, file_name(name))
    except (FileNotFoundError, CorruptRecordError):
        return None  # a corrupt record is replaced by a good one


def _write(paths: Paths, file: str, record: ImageRecord) -> None:
    # Temporary names begin with a dot, which no reference does: listing never takes one for a record.
    staged = f"{paths.images}/.{os.getpid()}"
    try:
        write_atomic(staged, (dumps(record) + "\n").encode())
        os.rename(staged, f"{paths.images}/{file}")
    except OSError as error:
        hint = "free some space with `rl rmi`" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise RlError(f"write image record {paths.images}/{file}: {error.strerror}", hint) from None


def _unlink(paths: Paths, file: str) -> None:
    try:
        os.unlink(f"{paths.images}/{file}")
    except FileNotFoundError:
        pass
