"""One health probe, in a child of the monitor: run the check's command in the container, judge, record, tell.

Called by `rl.monitor.health`, which forked this process; everything here is imported after that. The command runs as
`rl exec` would run it (:mod:`rl.runtime.exec`): the container's user, environment, cgroup, capabilities and filter. It
ends with this process, and this process with the monitor.

The rules are Podman's and Docker's. A success makes the container healthy; ``retries`` failures in a row make it
unhealthy, but those of the start period do not count until there was a success.
"""

from __future__ import annotations

import marshal
import os
import select
import time

from rl.config import secretcopies
from rl.config.jsonio import read_json, write_json
from rl.errors import RlError
from rl.kernel import proc
from rl.monitor.health import is_paused
from rl.runtime import exec as runtime
from rl.runtime import seccomp, sessions
from rl.runtime.sync import Io

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from rl.config.model import HealthCheck, HealthLogEntry, HealthRecord
    from rl.monitor.handover import Params
    from rl.monitor.health import Health
    from rl.runtime.spawning import Created

_CHUNK = 1 << 16
TIMED_OUT = -1  # as an exit code
#: Characters of output that are kept in memory at all.
_MOST = 1 << 20


def main(params: Params, check: HealthCheck, excused: bool, pipe: int, failed: str) -> NoReturn:
    """Probe, record the result, write it to *pipe*, end. *excused*: a failure does not count; *failed*: see Checks."""
    begin = _now()
    if failed:
        code, output = TIMED_OUT, failed
    else:
        try:
            code, output = run(params, check, pipe)
        except RlError as error:
            code, output = error.exit_code, error.message
        except OSError as error:
            code, output = 125, error.strerror or str(error)
    if code == TIMED_OUT and not failed and is_paused(params):
        os.write(pipe, marshal.dumps({}))  # it was paused meanwhile: that says nothing
        os._exit(0)
    health = params["health"]
    size = health["config"].get("max_log_size", 500)
    entry: HealthLogEntry = {"Start": begin, "End": _now(), "ExitCode": code, "Output": output[: size or _MOST]}
    verdict = judge(health, check, code, excused)
    try:
        _record(params, {**health, **verdict}, entry)
    except (OSError, ValueError):
        pass  # a full disk: the monitor knows all the same
    _tell(params, {**health, **verdict}, entry)
    os.write(pipe, marshal.dumps({**verdict, "code": code}))
    os._exit(0)


def judge(health: Health, check: HealthCheck, code: int, excused: bool) -> dict[str, Any]:
    """What the result *code* changes in *health*."""
    if health["starting"]:
        if code:
            return {"passes": 0, "streak": health["streak"] + 1}
        passes = health["passes"] + 1
        if passes < check.get("success", 1):
            return {"passes": passes, "streak": 0}
        return {"starting": False, "passes": 0, "streak": 0}
    if code == 0:
        return {"status": "healthy", "streak": 0, "passed": True}
    if excused:
        return {}
    streak = health["streak"] + 1
    return {"streak": streak, "status": "unhealthy" if streak >= check["retries"] else health["status"]}


def _now() -> str:
    ns = time.time_ns()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ns // 10**9)) + f".{ns % 10**9:09d}Z"


# the command --------------------------------------------------------------------------------------
def run(params: Params, check: HealthCheck, pipe: int) -> tuple[int, str]:
    """(exit code, output) of the check's command; :data:`TIMED_OUT` after its timeout. Raises RlError.

    Ends early, with all of the command, when nobody reads *pipe* any more.
    """
    read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    os.set_blocking(write_end, True)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    created = _spawn(params, check, Io(null, write_end, write_end))
    os.close(write_end)
    deadline = time.monotonic() + check["timeout"] / 1e9  # from here: what has just been paused may not begin for long
    output = bytearray()
    try:
        in_time = _collect(created, read_end, output, deadline, pipe)
    except BaseException:
        _end(created)
        raise
    text = output.decode(errors="replace")
    if not in_time:
        _end(created)
        seconds = f"{check['timeout'] / 1e9:g}s"
        return TIMED_OUT, f"{text}health check exceeded its timeout of {seconds}"
    code = os.waitstatus_to_exitcode(os.waitpid(created.pid, 0)[1])
    return code if code >= 0 else 128 - code, text.removesuffix("\n")


def _spawn(params: Params, check: HealthCheck, io: Io) -> Created:
    state = params["state"]
    spec = read_json(f"{params['health']['bundle']}/config.json")
    kind, *words = check["test"]
    process = dict(spec["process"])
    process.update(args=words if kind == "CMD" else [*check["shell"], " ".join(words)], terminal=False)
    process.pop("consoleSize", None)
    uses = read_json(f"{params['container_dir']}/config.json").get("secrets")
    if uses:
        process["env"] = [*process.get("env", []), *secretcopies.variables(params["container_dir"], uses)]
    profile = (spec.get("linux") or {}).get("seccomp")
    cgroup = params.get("cgroup", "")
    if state.get("affinity"):
        os.sched_setaffinity(0, state["affinity"])
    document = None
    if profile and profile.get("listenerPath"):
        from rl.runtime import hooks

        document = hooks.state(spec, params["health"]["bundle"], params["id"], "running", params["pid"])
    return runtime.spawn(
        params["pid"], _container(params), {"process": process, "annotations": spec.get("annotations")}, io,
        cgroup_procs=f"{cgroup}/cgroup.procs" if cgroup else "",
        seccomp_program=seccomp.program_for(profile, params["health"]["cache"]) if profile else None,
        seccomp_flags=seccomp.flags_of(profile) if profile else 0, profile=profile, state=document,
        die_with_parent=True,
    )


def _container(params: Params) -> int:
    """A pidfd of the container's init, which is none of our children."""
    pid = params["pid"]
    try:
        pidfd = os.pidfd_open(pid)
        if proc.start_time(pid) != params["state"]["pid_start"]:
            raise ProcessLookupError
        # The monitor is spared by the kernel when memory runs out, where it could see to that; a probe is not.
        with open(f"/proc/{pid}/oom_score_adj", "rb") as theirs, open("/proc/self/oom_score_adj", "wb") as ours:
            ours.write(theirs.read())
    except OSError:
        raise RlError("the container has ended") from None
    return pidfd


def _collect(created: Created, source: int, output: bytearray, deadline: float, pipe: int) -> bool:
    """Read until the command has ended, which is True, or its time is over."""
    poll = select.poll()
    poll.register(created.pidfd, select.POLLIN)
    poll.register(source, select.POLLIN)
    poll.register(pipe, 0)  # POLLERR: the monitor is gone
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        ready = {fd for fd, _ in poll.poll(left * 1000 + 1)}
        if pipe in ready:  # the record is not ours any more
            _end(created)
            os._exit(1)
        if source in ready and not _read(source, output):
            poll.unregister(source)
        if created.pidfd in ready:
            while _read(source, output):
                pass  # what children of the command may still write is not waited for
            return True


def _read(source: int, output: bytearray) -> bool:
    """Whether there was something; beyond the bound it is read and dropped, so that the command can go on."""
    try:
        data = os.read(source, _CHUNK)
    except BlockingIOError:
        return False
    if len(output) < _MOST:
        output += data
    return bool(data)


def _end(created: Created) -> None:
    sessions.kill(created.pid, proc.start_time(created.pid))
    os.waitpid(created.pid, 0)


# the record ---------------------------------------------------------------------------------------
def _record(params: Params, health: Any, entry: HealthLogEntry) -> None:
    config = health["config"]
    path = f"{params['container_dir']}/health.json"
    entries = [*read_log(path), entry]
    count = config.get("max_log_count", 5)
    record: HealthRecord = {
        "status": health["status"], "failing_streak": health["streak"], "log": entries[-count:] if count else entries,
    }
    write_json(path, record, sync=False)
    where = config.get("log_destination", "local")
    if where.startswith("/"):
        document = {"Status": record["status"], "FailingStreak": record["failing_streak"], "Log": record["log"]}
        write_json(f"{where}/{params['id']}-healthcheck.log", document, sync=False)


def _tell(params: Params, health: Any, entry: HealthLogEntry) -> None:
    """The event of the probe."""
    if "events" not in params:
        return
    from rl.monitor import eventlog

    more = {"image": params.get("image", ""), "health_status": health["status"]}
    if health["config"].get("log_destination") == "events_logger":
        more["health_log"] = entry["Output"]
    name, labels = params["log"].get("name", ""), params.get("labels")
    event = eventlog.event("container", "health_status", params["id"], name, more, labels)
    eventlog.write(params["events"], [event])


def read_log(path: str) -> list[HealthLogEntry]:
    """The log in a health.json; none where that is missing, or was torn by a power cut."""
    try:
        found: list[HealthLogEntry] = read_json(path)["log"]
        return found if isinstance(found, list) else []
    except (OSError, ValueError, TypeError, KeyError):
        return []
