"""exec: a further process in a running container."""

from __future__ import annotations

import os

from rl.config.jsonio import read_json
from rl.errors import StateError, UsageError
from rl.runtime import exec as runtime
from rl.runtime import seccomp, validate
from rl.runtime.program import common, console, lifecycle
from rl.runtime.sync import Io

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.runtime.program.main import Program
    from rl.runtime.program.store import Record


def exec_(program: Program, options: dict[str, Any], operands: list[str]) -> int:
    """Run a process in container ``operands[0]``; its exit code, or 0 when detached."""
    detached = bool(options.get("detach"))
    record = program.store().load(operands[0])
    _check_running(record, bool(options.get("ignore-paused")))
    spec = record.spec()
    process = _process(spec, options, operands[1:])
    path = options.get("console-socket", "")
    console.check(bool(process.get("terminal")), path, detached)
    io = Io(preserve=common.preserved(options.get("preserve-fds", 0)))
    profile = (spec.get("linux") or {}).get("seccomp")
    procs = _cgroup(record, options.get("cgroup", ""))
    pid = record.pid
    pidfd = os.pidfd_open(pid)
    if record.pid != pid:
        raise StateError(f"container {record.id} is not running")
    created = runtime.spawn(
        pid, pidfd, {**spec, "process": process}, io, cgroup_procs=procs,
        place=runtime.by_systemd(procs.removesuffix("/cgroup.procs"), program.warn) if ".scope/" in procs else None,
        seccomp_program=seccomp.program_for(profile, common.cache_directory()) if profile else None,
        seccomp_flags=seccomp.flags_of(profile) if profile else 0, profile=profile,
        state=lifecycle.hook_state(record, spec, "running"),
    )
    os.close(pidfd)
    for warning in created.warnings:
        program.warn(warning)
    common.write_pid(options.get("pid-file", ""), created.pid)
    if path:
        console.send(path, created.master)
    if detached:
        return 0
    relay = console.Relay(created.master) if created.master >= 0 else None
    console.forward_signals(created.pidfd, relay)
    try:
        status = console.supervise(created.pid, created.pidfd, relay)
    finally:
        if relay is not None:
            relay.close()
    return status if status >= 0 else 128 - status


def _check_running(record: Record, paused_too: bool) -> None:
    status = record.status
    if status == "paused":
        if paused_too:
            return
        raise StateError(
            f"container {record.id} is paused: a process in it would not run", f"rl-runtime resume {record.id}"
        )
    if status not in ("running", "created"):
        raise StateError(f"cannot exec in a {status} container: {record.id}")


def _cgroup(record: Record, below: str) -> str:
    path = record.cgroup
    if not below:
        return f"{path}/cgroup.procs" if path else ""
    if not path or ".." in below.split("/"):
        raise UsageError(f"--cgroup {below}: must be a path below the container's cgroup")
    return f"{path}/{below.strip('/')}/cgroup.procs"


def _process(spec: dict[str, Any], options: dict[str, Any], command: list[str]) -> dict[str, Any]:
    """The process of --process, or the container's own, changed by the other options."""
    if options.get("process"):
        try:
            document = read_json(options["process"])
        except (OSError, ValueError, RecursionError) as error:
            raise UsageError(f"--process {options['process']}: {error}") from None
        validate.check_process(document)
        found: dict[str, Any] = document
        return found
    if not command:
        raise UsageError("exec: no command given", "rl-runtime exec ID COMMAND [ARGUMENT...]")
    process = dict(spec["process"])
    process.update(args=command, terminal=bool(options.get("tty")))
    process["env"] = [*(process.get("env") or []), *options.get("env", [])]
    for option, key in (("cwd", "cwd"), ("apparmor", "apparmorProfile"), ("process-label", "selinuxLabel")):
        if options.get(option):
            process[key] = options[option]
    if "no-new-privs" in options:
        process["noNewPrivileges"] = options["no-new-privs"]
    if options.get("cap"):
        sets = dict(process.get("capabilities") or {})
        for kind in ("bounding", "effective", "permitted"):
            sets[kind] = [*(sets.get(kind) or []), *options["cap"]]
        process["capabilities"] = sets
    process["user"] = _user(process.get("user") or {}, options)
    validate.check_process(process)
    return process


def _user(user: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    user = dict(user)
    if options.get("user"):
        uid, colon, gid = options["user"].partition(":")
        if not uid.isdigit() or (colon and not gid.isdigit()):
            raise UsageError(f"--user {options['user']!r}: must be UID[:GID], in numbers")
        user["uid"] = int(uid)
        if colon:
            user["gid"] = int(gid)
    extra = options.get("additional-gids") or []
    for gid in extra:
        if not gid.isdigit():
            raise UsageError(f"--additional-gids {gid!r}: must be a number")
    if extra:
        user["additionalGids"] = [*(user.get("additionalGids") or []), *map(int, extra)]
    return user
