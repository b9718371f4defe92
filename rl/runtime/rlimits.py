"""Resource limits and oom_score_adj of a process, where its user namespace gives it no right to them.

Raising a hard limit and lowering oom_score_adj take CAP_SYS_RESOURCE in the *first* user namespace (prlimit(2),
proc(5)): real root loses it by entering another one. So whoever still has it raises them from outside, while the
process waits or before it enters; the process then sets them exactly, which needs no right any more.

Called by :mod:`rl.runtime.container`, :mod:`rl.runtime.exec` and :mod:`rl.runtime.process`.
"""

from __future__ import annotations

from rl.errors import RlError, UnsupportedError
from rl.kernel import namespaces as ns
from rl.kernel import process as kp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NAMES = ("CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS", "LOCKS", "SIGPENDING",
         "MSGQUEUE", "NICE", "RTPRIO", "RTTIME")  # by number (asm-generic/resource.h)
_UNLIMITED = 2**64 - 1


def _parsed(limits: list[dict[str, Any]]) -> list[tuple[str, int, int, int]]:
    """(name, number, soft, hard) of each of *limits*; -1 is unlimited."""
    found = []
    for limit in limits:
        name = limit["type"]
        if name.removeprefix("RLIMIT_") not in NAMES:
            raise UnsupportedError(f"resource limit {name} is not known here")
        soft, hard = (int(limit[key]) & _UNLIMITED for key in ("soft", "hard"))
        found.append((name, NAMES.index(name.removeprefix("RLIMIT_")), soft, hard))
    return found


def apply(limits: list[dict[str, Any]]) -> None:
    """Set ``process.rlimits`` for this process. Raises RlError."""
    for name, number, soft, hard in _parsed(limits):
        try:
            kp.set_rlimit(number, soft, hard)
        except OSError as error:
            present = kp.get_rlimit(number)[1]
            if hard > present:
                raise RlError(
                    f"set {name} to {soft}:{hard}: the caller's hard limit is {present}",
                    "ask for no more than that, or have the limit raised in /etc/security/limits.conf",
                ) from None
            raise RlError(f"set {name} to {soft}:{hard}: {error.strerror}") from None


def raise_for(pid: int, process: dict[str, Any]) -> None:
    """Raise what *process* asks for beyond the present, for process *pid* (0: ourselves), as far as we may.

    Only hard limits are raised here: a low limit would hinder the preparation. What is refused is no error yet, the
    process itself will say it.
    """
    for _, number, _, hard in _parsed(process.get("rlimits") or []):
        soft, present = kp.get_rlimit(number, pid)
        if hard > present:
            try:
                kp.set_rlimit(number, soft, hard, pid)
            except OSError:
                pass
    if process.get("oomScoreAdj") is not None:
        try:
            ns.write_proc(f"/proc/{pid or 'self'}/oom_score_adj", str(process["oomScoreAdj"]))
        except OSError:
            pass
