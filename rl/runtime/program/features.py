"""`rl-runtime features`: what this runtime knows, of its own tables (runtime-spec, features.md, features-linux.md).

It speaks of the runtime, not of the host, except for ``seccomp.supportedFlags``, which are asked of the kernel.
"""

from __future__ import annotations

import rl
from rl.kernel import process as kp
from rl.runtime import capabilities, mountoptions, schema
from rl.runtime.seccomp import NEW_LISTENER, compiler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OLDEST, NEWEST = "1.0.0", "1.3.0"


def document() -> dict[str, Any]:
    """The features structure."""
    linux = schema.LINUX[1]
    flags = sorted(compiler.FLAGS)
    return {
        "ociVersionMin": OLDEST,
        "ociVersionMax": NEWEST,
        "hooks": list(schema.HOOKS),
        "mountOptions": mountoptions.known(),
        "linux": {
            "namespaces": list(schema.NAMESPACES),
            "capabilities": [f"CAP_{name}" for name in capabilities.NAMES],
            "cgroup": {"v1": False, "v2": True, "systemd": True, "systemdUser": True, "rdma": True},
            "seccomp": {
                "enabled": True,
                "actions": sorted(compiler.ACTIONS),
                "operators": sorted(compiler.OPERATORS),
                "archs": sorted(compiler.ARCHITECTURES),
                "knownFlags": flags,
                "supportedFlags": [name for name in flags if _kernel_knows(compiler.FLAGS[name])],
            },
            "apparmor": {"enabled": True},
            "selinux": {"enabled": True},
            "intelRdt": {"enabled": linux["intelRdt"][0] != "refused"},
            "mountExtensions": {"idmap": {"enabled": True}},
            "netDevices": {"enabled": linux["netDevices"][0] != "refused"},
        },
        "annotations": {"rl-runtime.version": rl.__version__},
        "potentiallyUnsafeConfigAnnotations": [],
    }


def _kernel_knows(flag: int) -> bool:
    # This one goes with a listener only (seccomp(2)).
    alone = flag != compiler.FLAGS["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]
    return kp.knows_seccomp_flags(flag if alone else flag | NEW_LISTENER)
