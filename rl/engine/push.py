"""rl push: an image to a registry, or to a place on this machine."""

from __future__ import annotations

from rl.engine import events
from rl.errors import UnsupportedError, UsageError
from rl.image import reference, store
from rl.image.content import adding
from rl.image.form import Form

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.model import ImageRecord
    from rl.engine.context import Engine
    from rl.image.progress import Progress
    from rl.image.reference import Reference

#: Transports that push knows besides docker://, and what they are to `rl save`.
_SAVED = {"docker-archive": "docker-archive", "oci-archive": "oci-archive", "oci": "oci-dir", "dir": "docker-dir"}
#: Those it does not, with what does it.
_REFUSED = {
    "containers-storage": "rl does not write into Podman's store: rl save IMAGE | podman load",
    "docker-daemon": "there is no daemon here: rl save IMAGE | docker load",
}


def push(
    engine: Engine, image: str, destination: str = "", *, form: Form | None = None, compress: bool = False,
    tls_verify: bool | None = None,
    authfile: str = "", creds: str = "", cert_dir: str = "", retry: int = 3, retry_delay: float = 1.0,
    progress: Progress | None = None, sign_by: str = "", passphrase_file: str = "",
) -> str:
    """Push *image* to *destination*, by default its own name in its registry; the manifest's digest there.

    A docker-archive, which has none, gives "". *compress*: plain layers in a ``dir:``, too. *retry*: how often a
    failing transfer is repeated; *retry_delay*: the first pause, in seconds. *sign_by*: a GPG key that signs it, once
    it is there. Raises NoSuchImageError, UsageError, AuthenticationError, RegistryError, VerificationError,
    UnsupportedError, RlError.
    """
    from rl.engine.pull import checked
    from rl.image.connect import Options
    from rl.image.credentials import from_option
    from rl.image.progress import Progress as Silent
    from rl.image.push import Pusher

    record = store.find(engine.paths, image)
    transport, colon, rest = destination.partition(":")
    if colon and transport in _REFUSED:
        raise UnsupportedError(f"push to {destination}: {transport}: is not written to", _REFUSED[transport])
    form = form or Form()
    if colon and transport in _SAVED:
        if any((tls_verify is not None, authfile, creds, cert_dir, sign_by)):
            raise UsageError(
                f"push to {destination}: --tls-verify, --authfile, --creds, --cert-dir, --sign-by are for registries",
                "leave them out",
            )
        form = _local_form(transport, form, compress)
        return _save(engine, record, transport, rest, destination, form)
    if compress:
        raise UsageError("push: --compress is for dir: directories", "to a registry plain layers go compressed anyway")
    target = _target(record, image, destination.removeprefix("docker://"))
    if sign_by:
        from rl.engine import signing

        signing.check_writable(engine.paths, target)
        passphrase_file = signing.passphrase(passphrase_file) if passphrase_file else ""
    options = Options(
        tls_verify=tls_verify, authfile=checked(authfile), cert_dir=cert_dir,
        credentials=from_option(creds) if creds else None, retries=retry, delay=retry_delay,
    )  # fmt: skip
    shown = progress or Silent()
    pusher = Pusher(engine.paths, options, form.compressing("gzip"), shown)
    try:
        with adding(engine.paths):
            digest = pusher.push(record, target)
    finally:
        pusher.close()
        shown.close()
    if sign_by:
        signing.sign_pushed(engine.paths, sign_by, target, digest, passphrase_file)
    events.emit(engine.paths, "image", "push", record["id"], str(target))
    return digest


def _target(record: ImageRecord, image: str, destination: str) -> Reference:
    name = destination or (record["name"] if store.is_name_of(image, record) else "")
    if not name:
        raise UsageError(f"push {image}: no destination, and an id is no name", f"rl push {image} REGISTRY/NAME[:TAG]")
    target = reference.parse(reference.normalize(name, reference.DOCKER))
    if target.digest:
        raise UsageError(f"push {name}: a digest cannot be pushed to", "give a name, with or without a tag")
    if target.registry == reference.LOCALHOST:
        raise UsageError(
            f"push {image}: {target} is the name of an image of this machine, not of a registry",
            f"rl push {image} REGISTRY/{target.repository}",
        )
    return target


def _local_form(transport: str, form: Form, compress: bool) -> Form:
    """What *form* comes to on this machine. Raises UsageError for what the transport does not have."""
    if compress and transport != "dir":
        raise UsageError(f"push: --compress is for dir: directories, not for {transport}:", "leave --compress out")
    if transport == "docker-archive" and not form.is_plain():
        raise UsageError(
            "push: a docker-archive has no manifest, and its layers are never compressed",
            "leave --format and the flags for compression out, or use oci-archive:",
        )
    if transport.startswith("oci") and form.format == "v2s2":
        raise UsageError(f"push: {transport}: has OCI's format only", "use --format oci, or dir:")
    if transport != "dir" or compress:
        return form.compressing("gzip")
    if not form.compression and (form.force or form.level is not None):
        raise UsageError("push: layers stay plain in a dir: unless a compression is asked for", "add --compress")
    return form


def _save(engine: Engine, record: ImageRecord, transport: str, rest: str, destination: str, form: Form) -> str:
    """To an archive or a directory: the name goes in as the transport has it (containers-transports(5))."""
    from rl.engine.save import write

    path, _, name = rest.partition(":")
    if not path or (transport == "dir" and name):
        shape = f"{transport}:PATH" + ("" if transport == "dir" else "[:NAME]")
        raise UsageError(f"push to {destination}: not a place", f"write it as {shape}")
    if transport == "docker-archive" and name:
        name = reference.normalize(name, reference.DOCKER)
    images = [(record, [name] if name else [])]
    with adding(engine.paths):
        form.format_of(store.manifest(engine.paths, record))  # what is not possible is said before anything is made
        digest = write(engine, images, path, _SAVED[transport], form)
    events.emit(engine.paths, "image", "push", record["id"], destination)
    return digest
