"""``--restart``: when the monitor starts a container again. Called by create, run and update."""

from __future__ import annotations

from rl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.model import RestartPolicy

POLICIES = ("no", "never", "on-failure", "always", "unless-stopped")


def policy(text: str, remove: bool) -> RestartPolicy:
    """The policy that *text* names; *remove*: the container has ``--rm``. Raises UsageError.

    ``never`` is ``no``. A container that is removed when it ends may be started again after a failure only.
    """
    name, colon, count = text.partition(":")
    if colon and name != "on-failure":
        raise UsageError("restart policy retries can only be specified with on-failure restart policy", _HINT)
    if ":" in count:
        raise UsageError("invalid restart policy: may specify retries at most once", _HINT)
    if colon and not (count.isascii() and count.isdigit()):
        raise UsageError(f"--restart={text}: {count!r} is not a number of retries", "such as --restart=on-failure:3")
    if name and name not in POLICIES:
        raise UsageError(f"{name!r} is not a valid restart policy: invalid argument", _HINT)
    if remove and name in ("always", "unless-stopped"):
        raise UsageError(
            'the --rm option conflicts with --restart, when the restartPolicy is not "" and "no"',
            "leave out one of them, or use --restart=on-failure",
        )
    return {"policy": "no" if name in ("", "never") else name, "retries": int(count or 0)}


_HINT = "use no, on-failure[:N], always or unless-stopped"
