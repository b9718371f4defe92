"""`rl top`: the processes of a container."""

from __future__ import annotations

from rl.cli import common, output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "CONTAINER [DESCRIPTOR...|PS OPTION...]"
ARGUMENTS = (0, None)
INTERSPERSED = False
COMPLETE = "container"
OPTIONS = (common.LATEST,)
HELP = """Show the processes of a running container.

Descriptors: args, capamb, capbnd, capeff, capinh, capprm, comm, etime, group, groups, hgroup, hgroups, hpid, huser,
label, nice, pcpu, pgid, pid, ppid, rgroup, rss, ruser, seccomp, state, stime, time, tty, user, vsz. Without any:
user,pid,ppid,pcpu,etime,tty,time,args. Anything else is given to the container's own ps.
"""


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.top import top

    name, descriptors = common.one(engine, options, arguments)
    if descriptors[:1] == ["--"]:
        descriptors = descriptors[1:]
    found = top(engine, name, descriptors)
    output.write(found if isinstance(found, str) else output.table([found[0], *found[1]]))
    return 0
