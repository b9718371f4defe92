"""The seccomp profile of a container: --security-opt seccomp=…, --seccomp-policy, --privileged. Called by launch."""

from __future__ import annotations

from rl.engine.spec import security
from rl.errors import RlError
from rl.runtime import seccomp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.config.model import ContainerConfig

#: A label of an image with a seccomp profile, for --seccomp-policy=image.
LABEL = "io.containers.seccomp.profile"


def seccomp_profile(config: ContainerConfig) -> dict[str, Any] | None:
    """``linux.seccomp`` of the OCI specification; None: no filter. Raises RlError for a profile that cannot be read."""
    chosen = security.security_options(config["security_opt"]).seccomp
    if chosen == "unconfined" or (config["privileged"] and not chosen):
        return None
    bounding, _ = security.capabilities(config["cap_add"], config["cap_drop"], config["privileged"])
    label = (config["image_config"].get("Labels") or {}).get(LABEL)
    if label and not chosen and config["options"].get("seccomp_policy") == "image":
        from rl.config.jsonio import loads

        try:
            return seccomp.resolve(loads(label), bounding)
        except ValueError as error:
            what = f"read the seccomp profile in the label {LABEL} of {config['image']}: {error}"
            raise RlError(what, "leave --seccomp-policy=image out") from None
    if not chosen:
        return seccomp.default_profile(bounding)
    from rl.config.jsonio import read_json

    try:
        return seccomp.resolve(read_json(chosen), bounding)
    except (OSError, ValueError) as error:
        raise RlError(f"read the seccomp profile {chosen}: {error}") from None
