"""--group-add keep-groups, --passwd-entry, --group-entry, --hostuser: what `create` checks and looks up.

What becomes of them is in rl.engine.identity. Source: podman-run(1).
"""

from __future__ import annotations

from rl.errors import NotFoundError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

KEEP_GROUPS = "keep-groups"


def check(options: dict[str, Any]) -> None:
    """Raises UsageError for flags that are wrong or contradict each other."""
    groups = options.get("group_add", [])
    if KEEP_GROUPS in groups and len(groups) > 1:
        raise UsageError(f"--group-add {KEEP_GROUPS} is not allowed with any other --group-add", "use one of them")
    for flag, fields in (("passwd_entry", 7), ("group_entry", 4)):
        entry = options.get(flag)
        shown = f"--{flag.replace('_', '-')}"
        if entry is None:
            continue
        if not options.get("passwd", True):
            raise UsageError(f"{shown} contradicts --passwd=false: no entries are written then", "use one of them")
        if entry.count(":") != fields - 1 or "\n" in entry:
            example = "$USERNAME:*:$UID:$GID:$NAME:$HOME:/bin/sh" if fields == 7 else "$GROUPNAME:x:$GID:$USERLIST"
            raise UsageError(f"{shown} {entry!r} is not a line of {fields} fields", f"write such as '{example}'")


def host_users(names: list[str]) -> list[tuple[str, int, int, str, str]]:
    """(name, uid, gid, full name, home) of each of --hostuser. Raises NotFoundError."""
    if not names:
        return []
    import pwd

    found = []
    for name in names:
        try:
            entry = pwd.getpwuid(int(name)) if name.isascii() and name.isdigit() else pwd.getpwnam(name)
        except (KeyError, OverflowError):
            hint = "--hostuser adds an account of the host; --user takes any number"
            raise NotFoundError(f"--hostuser {name}: there is no such user on this host", hint) from None
        found.append((entry.pw_name, entry.pw_uid, entry.pw_gid, entry.pw_gecos, entry.pw_dir))
    return found
