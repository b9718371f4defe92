"""Which image of a list is the one for a platform. Called by rl.image.pull and rl.engine.pull.

Source: OCI image specification, "Image Index" (``platform``); Go's GOARCH names.
"""

from __future__ import annotations

import os

from rl.errors import NoSuchImageError, UsageError
from rl.image.archive import platform_score, this_platform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Platform = tuple[str, str, str]  # os, architecture, variant ("": any)

#: What people and other tools write for GOARCH names.
_NAMES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "i386": ("386", ""),
    "i686": ("386", ""),
    "ppc64el": ("ppc64le", ""),
}


def requested(platform: str = "", arch: str = "", operating_system: str = "", variant: str = "") -> Platform | None:
    """The platform that the flags ask for, completed by this machine's; None when none was given.

    Raises UsageError.
    """
    if platform and (arch or operating_system or variant):
        raise UsageError(
            "--platform cannot be used with --arch, --os or --variant", "put it all into --platform OS/ARCH/VARIANT"
        )
    if platform:
        words = platform.lower().split("/")
        if not 2 <= len(words) <= 3 or not all(words):
            raise UsageError(f"--platform {platform!r} is not OS/ARCH or OS/ARCH/VARIANT", "for example linux/arm64")
        operating_system, arch, variant = (*words, "")[:3]
    if not (arch or operating_system or variant):
        return None
    mine = this_platform()
    name, implied = _NAMES.get(arch.lower(), (arch.lower(), "")) if arch else (mine[1], "")
    return operating_system.lower() or mine[0], name, variant.lower() or implied


def choose(manifests: list[dict[str, Any]], wanted: Platform | None, what: str) -> dict[str, Any]:
    """The best of an index's descriptors. Raises NoSuchImageError that lists what there is."""
    target = wanted or this_platform()
    scored = [
        (score, number)
        for number, item in enumerate(manifests)
        if (score := platform_score(item.get("platform"), target)) is not None and not _is_attestation(item)
    ]
    if scored:
        return manifests[min(scored)[1]]
    there = [text for item in manifests if not _is_attestation(item) and (text := describe(item.get("platform")))]
    machine = "" if wanted else f" (this machine is {os.uname().machine})"
    raise NoSuchImageError(
        f"{what} has no image for {'/'.join(filter(None, target))}{machine}",
        f"it has {', '.join(dict.fromkeys(there))}; choose one with --platform" if there else "it is an empty list",
    )


def check_single(config: dict[str, Any], wanted: Platform | None, what: str) -> str:
    """For an image that is no list: raises NoSuchImageError where *wanted* was asked for and it is another.

    Returns a warning where nothing was asked for and it is not for this machine, else "".
    """
    target = wanted or this_platform()
    if not config.get("os") or not config.get("architecture") or platform_score(config, target) is not None:
        return ""
    shown, asked = describe(config), "/".join(filter(None, target))
    if wanted:
        raise NoSuchImageError(
            f"{what} has no image for {asked}", f"it has {shown} only; leave --platform out, or choose another tag"
        )
    return f"{what} is for {shown}, and this machine is {asked}: it runs only with an emulator (qemu-user, binfmt_misc)"


def describe(platform: Any) -> str:
    """os/architecture/variant as people write it."""
    if not isinstance(platform, dict):
        return ""
    return "/".join(str(platform[key]) for key in ("os", "architecture", "variant") if platform.get(key))


def _is_attestation(item: dict[str, Any]) -> bool:
    """BuildKit's provenance documents stand among the images as unknown/unknown."""
    platform = item.get("platform")
    return isinstance(platform, dict) and platform.get("os") == "unknown"
