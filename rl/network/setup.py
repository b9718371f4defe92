"""The network of one container: which program makes it, started early, waited for late.

The ladder, best first: pasta, slirp4netns, the host's own network with a warning (only for a
container that did not ask for a network by name).

Called by the monitor (:func:`effective_mode`, :func:`start`) and by ``rl info`` (:func:`probes`).
"""

from __future__ import annotations

import os

from rl.errors import RlError, UnsupportedError
from rl.kernel import process
from rl.network import files, pasta, ports, settings
from rl.network.helper import Pending
from rl.runtime.userns import find_program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from rl.config.model import NetworkRequest

RUNGS = ("pasta", "slirp4netns")
_PACKAGES = {"pasta": "passt", "slirp4netns": "slirp4netns"}
_TUN = "/dev/net/tun"

__all__ = ["RUNGS", "Pending", "effective_mode", "probes", "start"]


def tun_problem() -> str:
    """Why the tap device cannot be made, "" if it can."""
    try:
        os.close(os.open(_TUN, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"open {_TUN}: {error.strerror}"
    return ""


def _hint(name: str) -> str:
    if tun_problem():
        if os.path.exists(_TUN):
            return f"sudo chmod 666 {_TUN}"
        return f"sudo modprobe tun; inside another container, start that one with --device {_TUN}"
    return f"install package {_PACKAGES[name]}"


def _find(name: str, config: dict[str, Any]) -> str:
    configured = config.get("engine.network_cmd_path", "") if name == "slirp4netns" else ""
    return configured if configured and os.access(configured, os.X_OK) else find_program(name)


def _order(config: dict[str, Any]) -> tuple[str, ...]:
    """The rungs, the one containers.conf prefers first."""
    preferred = config.get("network.default_rootless_network_cmd", "")
    return ("slirp4netns", "pasta") if preferred == "slirp4netns" else RUNGS


def _usable(name: str, config: dict[str, Any]) -> str:
    """The executable, "" if this rung does not hold."""
    return "" if tun_problem() else _find(name, config)


def effective_mode(request: NetworkRequest, run: str) -> str:
    """What ``default`` and ``private`` stand for on this host; every other mode is returned as it is.

    *run*: Paths.run. To be asked before namespaces are made: the answer may be ``host``.
    """
    mode = request.get("mode", "default")
    if mode not in ("default", "private"):
        return mode
    memory = settings.remembered(run)
    config = memory.config()
    memory.save()
    for name in _order(config):
        if _usable(name, config):
            return name
    return "host"


def start(request: NetworkRequest, net_fd: int, *, run_dir: str) -> Pending:
    """Begin to set up the network of the namespace held by *net_fd*; go on, then call ``ready()``.

    *run_dir*: Paths.run. The caller is root in the shared user namespace, in a mount namespace of its own
    and in the host's network namespace. ``ready()`` returns

    - ``mode``: pasta, slirp4netns, host or none. **host although a namespace was made** means that it
      must not be used: see :func:`effective_mode`;
    - ``ip``, ``prefix``, ``gateway``, ``interface``, ``ipv6``, ``ipv6_prefix``, ``ipv6_gateway`` where known;
    - ``dns``: resolvers the network itself offers;
    - ``host_containers_internal``: the host's address as seen from inside, "" if there is none;
    - ``pids``: helpers that must be ended with the container; ``warnings``.

    Raises ConflictError (port in use), UnsupportedError, UsageError, RlError; so does ``ready()``.
    """
    asked = request.get("mode", "default")
    if asked in ("host", "none") or asked.startswith(("container:", "ns:")):
        return Pending(_unserved(asked, request))
    memory = settings.remembered(run_dir)
    config = memory.config()
    by_name = asked in RUNGS
    candidates: list[_Rung] = []
    for name in (asked,) if by_name else _order(config):
        executable = _usable(name, config)
        if executable:
            candidates.append((name, executable, memory.program(executable)))
    memory.save()
    if not candidates:
        if by_name:
            raise UnsupportedError(f"--network={asked}: {tun_problem() or f'{asked} is not installed'}", _hint(asked))
        return Pending(_fallback(request))
    ports.check_free(request.get("ports", []))
    return _Ladder(request, config, candidates, net_fd, run_dir).pending()


#: (name, executable, its long options)
_Rung = tuple[str, str, frozenset[str]]


class _Ladder:
    """The rungs still to try for one container."""

    __slots__ = ("_candidates", "_config", "_current", "_net_fd", "_request", "_run_dir", "_said")

    def __init__(
        self, request: NetworkRequest, config: dict[str, Any], candidates: Sequence[_Rung],
        net_fd: int, run_dir: str,
    ) -> None:  # fmt: skip
        self._request = request
        self._config = config
        self._candidates = list(candidates)
        self._net_fd = net_fd
        self._run_dir = run_dir
        self._said: list[str] = []
        self._current = self._next()

    def _next(self) -> Pending:
        name, executable, can = self._candidates.pop(0)
        mappings = self._request.get("ports", [])
        options = self._request.get("options", [])
        mac = self._request.get("mac", "").replace("-", ":")
        if name == "slirp4netns":
            from rl.network import slirp4netns

            options = [*self._config.get("engine.network_cmd_options", []), *options]
            arguments, network = slirp4netns.plan(options, can)
            if mac:
                arguments.append(f"--macaddress={mac}")
                network["mac"] = mac
            return slirp4netns.start(executable, arguments, network, mappings, self._net_fd, self._run_dir)
        options = [*self._config.get("network.pasta_options", []), *options]
        if mac:
            options += ["--ns-mac-addr", mac]
        plan = pasta.plan(options, mappings, can, files.only_loopback_resolvers(), _real_root())
        if mac:
            plan.network["mac"] = mac
        return pasta.start(executable, plan, mappings, self._net_fd, self._run_dir, verify=pasta.is_old(can))

    def pending(self) -> Pending:
        return Pending(finish=self._finish, cancel=lambda: self._current.cancel(), expected=self._current.expected)

    def _finish(self) -> dict[str, Any]:
        while True:
            try:
                result = self._current.ready()
            except UnsupportedError as error:
                if not self._candidates:
                    raise
                self._said.append(f"{error.message}; trying {self._candidates[0][0]}")
                self._current = self._next()
                continue
            result["warnings"] = self._said + result["warnings"]
            return result


def _real_root() -> bool:
    """Whether uid 0 here is uid 0 of the host: pasta then insists on becoming nobody."""
    return any(inside == outside == 0 for inside, outside, _ in process.id_map("uid"))


def _unserved(mode: str, request: NetworkRequest) -> dict[str, Any]:
    warnings: list[str] = []
    if mode == "host" and request.get("ports"):
        warnings.append("published ports are ignored with --network=host: the container's ports are the host's")
    return {"mode": mode.partition(":")[0], "pids": [], "dns": [], "warnings": warnings, "host_containers_internal": ""}


def _fallback(request: NetworkRequest) -> dict[str, Any]:
    """The last rung, said aloud."""
    problem = tun_problem() or "neither pasta nor slirp4netns is installed"
    result = _unserved("host", {})
    warning = f"no network of its own for this container ({problem}): it uses the host's; {_hint('pasta')}"
    if request.get("ports"):
        warning += f". Not published, served as they are: {ports.format_ports(request['ports'])}"
    result["warnings"] = [warning]
    return result


def probes(run: str) -> list[dict[str, Any]]:
    """Every rung for ``rl info``: name, usable, reason, hint, executable, version, note; best first."""
    memory = settings.remembered(run)
    try:
        config = memory.config()
    except RlError:
        config = {}
    found: list[dict[str, Any]] = []
    for name in _order(config):
        executable = _find(name, config)
        reason = tun_problem() or ("" if executable else f"{name} is not installed")
        found.append({
            "name": name, "usable": not reason, "reason": reason, "hint": _hint(name) if reason else "",
            "executable": executable, "version": settings.version(executable) if executable else "",
            "note": _note(name, memory.program(executable)) if executable else "",
        })  # fmt: skip
    host_reason = "the container shares the host's network"
    found.append({
        "name": "host", "usable": True, "reason": host_reason, "hint": "", "executable": "", "version": "", "note": "",
    })  # fmt: skip
    memory.save()
    return found


def _note(name: str, can: frozenset[str]) -> str:
    """What one should know about the program that is installed."""
    if name == "pasta" and pasta.is_old(can):
        return (
            "older than September 2024: a server that speaks first (SSH, MySQL, SMTP) does not get connections from"
            " other hosts before they send something; a newer passt or --network=slirp4netns helps"
        )
    if name == "slirp4netns":
        return "the container sees clients as its gateway, not with their own addresses"
    return ""
