"""rl pull, and the image of rl run: from what the user typed to an image that is here.

:func:`ensure_image` is on the hot path: with an image that is here and the policy "missing" it imports nothing
beyond the image store.
"""

from __future__ import annotations

from rl.errors import NoSuchImageError, RlError, UnsupportedError, UsageError, VerificationError
from rl.image import store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rl.config.model import ImageRecord
    from rl.engine.context import Engine
    from rl.image.platforms import Platform
    from rl.image.progress import Progress
    from rl.image.pull import Puller
    from rl.image.reference import Reference
    from rl.storage.unpack import Unpacker

    Chooser = Callable[[list[str]], int]  # index of the name that the user picks

POLICIES = ("always", "missing", "newer", "never")
#: Transports of containers-transports(5) that name something on this machine.
_LOCAL = ("docker-archive:", "oci-archive:", "oci:", "dir:", "containers-storage:")


def ensure_image(
    engine: Engine,
    name: str,
    policy: str = "missing",
    *,
    platform: str = "",
    arch: str = "",
    os: str = "",
    variant: str = "",
    quiet: bool = False,
    progress: Progress | None = None,
    **how: Any,
) -> ImageRecord:
    """The record of image *name*, pulled first where *policy* says so; *how* is what :func:`pull` takes besides.

    Without *progress*, standard error shows it unless *quiet*. Raises NoSuchImageError, and what a pull raises.
    """
    if policy in ("missing", "never") and not (platform or arch or os or variant) and not name.startswith(_LOCAL):
        try:
            return store.find(engine.paths, name)
        except NoSuchImageError:
            if policy == "never":
                raise
    from rl.image.progress import choose

    return pull(
        engine,
        name,
        policy=policy,
        platform=platform,
        arch=arch,
        os=os,
        variant=variant,
        progress=progress or choose(quiet),
        **how,
    )[0]


def pull(
    engine: Engine,
    name: str,
    *,
    policy: str = "always",
    platform: str = "",
    arch: str = "",
    os: str = "",
    variant: str = "",
    all_tags: bool = False,
    tls_verify: bool | None = None,
    authfile: str = "",
    creds: str = "",
    cert_dir: str = "",
    quiet: bool = False,
    retry: int = 3,
    retry_delay: float = 1.0,
    progress: Progress | None = None,
    choose: Chooser | None = None,
) -> list[ImageRecord]:
    """Pull *name* and return its record (with *all_tags* one per tag of the repository).

    *name* may begin with a transport: docker://, docker-archive:, oci-archive:, oci:, dir:. *policy*: always, missing,
    newer (pull where the registry's digest is another; a registry that fails is no error then) or never.
    *tls_verify* None: as registries.conf says. *retry*: how often a failing transfer is repeated; *retry_delay*: the
    first pause, in seconds. *choose* picks among several registries of a short name; without it all are tried.
    Raises UsageError, NoSuchImageError, AuthenticationError, RegistryError, VerificationError, RlError.
    """
    from rl.engine.collect import collect_pending, discard_later
    from rl.image import platforms
    from rl.image.connect import Options
    from rl.image.credentials import from_option
    from rl.image.progress import Progress as Silent
    from rl.image.pull import Puller, is_disk_full

    if policy not in POLICIES:
        raise UsageError(f"pull policy {policy!r} is none of {', '.join(POLICIES)}", "the usual one is missing")
    if retry < 0 or retry_delay < 0:
        raise UsageError("--retry and --retry-delay must not be negative")
    wanted = platforms.requested(platform, arch, os, variant)
    shown = Silent() if quiet or progress is None else progress
    if name.startswith(_LOCAL):
        return _from_archive(engine, name, wanted, policy)
    known = None if all_tags else _known(engine, name, wanted, policy)
    if known and policy in ("missing", "never"):
        return [known]
    if policy == "never":
        raise NoSuchImageError(f"{name}: image not known", "--pull=never forbids to fetch it: use --pull=missing")
    options = Options(
        platform=wanted, tls_verify=tls_verify, authfile=checked(authfile), cert_dir=cert_dir,
        credentials=from_option(creds) if creds else None, retries=retry, delay=retry_delay,
    )  # fmt: skip
    puller = Puller(engine.paths, Layers(engine), options, shown, engine.warn)
    try:
        return _pull_first(engine, puller, name, all_tags, known, choose)
    except RlError as error:
        if isinstance(error, (VerificationError, UnsupportedError)) or is_disk_full(error):
            # Nobody will want to continue there; after a lost connection, what arrived is kept.
            _tidy(engine, discard_later, engine.paths)
        # "newer" is a wish: with an image here, a registry that is down stops nobody.
        if policy != "newer" or not known:
            raise
        engine.warn(f"{error.message}; the image that is here is used")
        return [known]
    finally:
        puller.close()
        _tidy(engine, collect_pending, engine)


def _tidy(engine: Engine, function: Callable[..., object], argument: object) -> None:
    """Call *function*; its failure must not hide what the pull ended with."""
    try:
        function(argument)
    except (RlError, OSError) as error:
        engine.warn(f"free what the pull left: {error}")


def _known(engine: Engine, name: str, wanted: Platform | None, policy: str) -> ImageRecord | None:
    """The image as it is here, if it is for the platform *wanted*."""
    if policy == "always":
        return None
    try:
        found = store.find(engine.paths, name)
    except NoSuchImageError:
        return None
    if wanted:
        from rl.image.platforms import check_single

        try:
            check_single(store.config(engine.paths, found), wanted, name)
        except NoSuchImageError:
            return None
    return found


def checked(authfile: str) -> str:
    """--authfile must exist: silently going on without credentials would be confusing."""
    from os.path import exists

    if authfile and not exists(authfile):
        raise UsageError(f"--authfile {authfile}: no such file", "`rl login --authfile` creates it")
    return authfile


def _pull_first(
    engine: Engine, puller: Puller, name: str, all_tags: bool, known: ImageRecord | None, choose: Chooser | None
) -> list[ImageRecord]:
    """Pull the first of the full names that *name* may mean and that can be pulled."""
    from rl.engine import events
    from rl.image import reference, registries_conf

    if name.startswith("sha256:"):
        raise NoSuchImageError(f"{name}: image not known", "an image is pulled by its name: NAME@sha256:… for a digest")
    short = reference.parse(name)
    if all_tags and (short.tag or short.digest):
        raise UsageError(f"--all-tags pulls every tag, and {name} names one", "leave the tag out")
    candidates = puller.conf.candidates(short, interactive=choose is not None)
    chosen = None
    if choose and len(candidates) > 1 and puller.conf.mode != "disabled":
        chosen = candidates[choose([str(candidate.with_default_tag()) for candidate in candidates])]
        candidates = [chosen]
    failures: list[tuple[Reference, RlError]] = []
    for candidate in candidates:
        try:
            records = _pull_one(puller, candidate, all_tags, known)
        except RlError as error:
            failures.append((candidate, _of_local_name(candidate, error)))
            continue
        for record in records:
            events.emit(engine.paths, "image", "pull", record["id"], record["name"] or name)
        if chosen:
            registries_conf.remember_alias(engine.paths, short, chosen)
        return records
    if len(failures) == 1:
        raise failures[0][1]
    reasons = "".join(f"\n  {candidate.with_default_tag()}: {error.message}" for candidate, error in failures)
    raise type(failures[-1][1])(
        f"pull {name}: none of {len(failures)} registries has it:{reasons}", failures[-1][1].hint
    )


def _of_local_name(name: Reference, error: RlError) -> RlError:
    """localhost/… are the names of images made here: who mistypes one is not thinking of a registry."""
    from rl.image.reference import LOCALHOST
    from rl.image.transport import UnreachableError

    if name.registry != LOCALHOST or not isinstance(error, UnreachableError):
        return error
    return NoSuchImageError(
        f"{name}: image not known, and no registry listens on localhost", "`rl images` lists the images that are here"
    )


def _pull_one(puller: Puller, name: Reference, all_tags: bool, known: ImageRecord | None) -> list[ImageRecord]:
    from rl.image.reference import Reference

    if not all_tags:
        return [puller.pull(name, known)]
    return [puller.pull(Reference(name.registry, name.repository, tag)) for tag in puller.tags(name)]


def _from_archive(engine: Engine, name: str, wanted: Platform | None, policy: str) -> list[ImageRecord]:
    """The image in a file, a directory, or a store of Podman's: ``oci:PATH[:TAG]``, ``containers-storage:NAME``, …"""
    import os

    from rl.engine.load import load
    from rl.image import policy as admission

    if policy == "never":
        raise UsageError(f"{name} is read from a file, and --pull=never forbids it", "load it first: rl load")
    transport, _, rest = name.partition(":")
    if transport == "containers-storage":
        from rl.engine.load import load_storage

        admission.check_unsigned(engine.paths, transport, [], name)
        return [store.find(engine.paths, found) for found in load_storage(engine, name)]
    path, which = rest, ""
    if transport != "dir" and not os.path.exists(path):
        path, _, which = rest.partition(":")
    scopes = admission.path_scopes(path) if transport in ("oci", "dir") else []
    admission.check_unsigned(engine.paths, transport, scopes, name)
    return [store.find(engine.paths, found) for found in load(engine, path, platform=wanted, which=which)]


class Layers:
    """The storage as rl.image.pull sees it."""

    def __init__(self, engine: Engine) -> None:
        self._paths = engine.paths

    def missing(self, diff_ids: list[str]) -> list[str]:
        """The layers that are not unpacked yet, each once, in order."""
        from rl.runtime.userns import wanted_maps
        from rl.storage import layers

        key = "single" if wanted_maps().mode == "single" else ""
        return [diff_id for diff_id in dict.fromkeys(diff_ids) if not layers.has(self._paths, diff_id, key)]

    def unpacker(self, on_progress: Callable[[str, int, int], None]) -> Unpacker:
        """Worker processes for them; a context manager. No thread may exist yet."""
        from rl.storage.unpack import Unpacker

        return Unpacker(self._paths, on_progress=on_progress)
