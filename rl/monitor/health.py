"""Health checks, the part that stays in the monitor: when to probe, and what follows.

The probe itself is a forked child (`rl.monitor.probe`), which imports what it needs after the fork: the monitor stays
small. There is never more than one, whoever asks for it: the timer or, through the attach socket, `rl healthcheck run`.
A child judges too, writes health.json and tells the new state over a pipe; what is here is only what the next one is
told. A child that ends without a word is followed by one that records just that.

Created by `rl.monitor.loop` for a container that has a health check; state crosses to another interpreter in the
monitor's params. Times are those of time.monotonic().
"""

from __future__ import annotations

import _signal
import marshal
import posix
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn, TypedDict

    from rl.config.model import HealthCheck, HealthConfig
    from rl.monitor.clients import Client
    from rl.monitor.handover import Params
    from rl.monitor.loop import Monitor

    class Health(TypedDict, total=False):
        """params["health"]: given by the launch up to ``starting``, the rest kept here."""

        config: HealthConfig
        bundle: str  # directory of config.json
        cache: str  # of compiled seccomp filters
        starting: bool  # the start-up check has not passed yet
        status: str  # starting | healthy | unhealthy
        streak: int  # failures in a row, of the check that is at work
        passes: int  # successes in a row of the start-up check
        passed: bool  # there was a success: the start period is over
        began: float  # the container's start
        due: float  # the next probe; 0: none
        fd: int  # where the probe at work writes its result; -1: none is
        pid: int  # of that probe
        limit: float  # when it must have ended by itself
        waiting: list[int]  # descriptors of the clients that wait for its result


#: Seconds a probe gets beyond its timeout to end what it started and to record that.
GRACE = 10.0
_PROBE, _LIMIT = "health", "health-limit"


def is_paused(params: Params) -> bool:
    """Whether the container's processes are frozen, by `rl pause` or by somebody else."""
    if params["state"].get("status") == "paused":
        return True
    try:
        fd = posix.open(f"{params['cgroup']}/cgroup.freeze", posix.O_RDONLY | posix.O_CLOEXEC)
    except (OSError, KeyError):
        return False
    try:
        return posix.read(fd, 2)[:1] == b"1"
    finally:
        posix.close(fd)


class Checks:
    """The health checks of one container."""

    __slots__ = ("_monitor", "health")

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self.health: Health = monitor.params["health"]
        health = self.health
        if "fd" not in health:
            now = time.monotonic()
            self._set(
                status="starting", streak=0, passes=0, passed=False, began=now, due=now, fd=-1, pid=0, limit=0.0,
                waiting=[],
            )
            if not self.check["interval"]:
                health["due"] = 0.0
        if health["fd"] >= 0:
            self._attend()
        self._set_timer()

    def _set(self, **values: Any) -> None:
        self.health.update(values)  # type: ignore[typeddict-item]

    @property
    def check(self) -> HealthCheck:
        """What is probed now: the start-up check until it has passed."""
        config = self.health["config"]
        return config["startup"] if self.health["starting"] else config

    def in_start_period(self) -> bool:
        """Whether failures do not count yet."""
        health = self.health
        left = health["began"] + health["config"].get("start_period", 0) / 1e9 - time.monotonic()
        return left > 0 and not health["passed"] and not health["starting"]

    def ask(self, client: Client) -> None:
        """`rl healthcheck run`: probe now; the client gets the result. A probe that is at work will do."""
        self.health["waiting"].append(client.fd)
        if self.health["fd"] < 0:
            self._begin()

    def stop(self) -> None:
        """The container has ended: no more probes. One that is at work ends as what the container left running does."""
        for key in (_PROBE, _LIMIT):
            self._monitor.cancel(key)
        if self.health["fd"] >= 0:
            self._monitor.forget(self.health["fd"])
            posix.close(self.health["fd"])
            self.health["fd"] = -1
        self._answer(None)

    def _set_timer(self) -> None:
        if self.health["due"] and self.health["fd"] < 0:
            self._monitor.at(_PROBE, max(0.0, self.health["due"] - time.monotonic()), self._on_time)

    def _schedule(self) -> None:
        """The next probe, from the end of this one on."""
        interval = self.check["interval"]
        if interval and self.in_start_period():
            interval = self.health["config"].get("start_interval") or interval
        self.health["due"] = time.monotonic() + interval / 1e9 if interval else 0.0
        self._set_timer()

    def _on_time(self) -> None:
        if self.health["fd"] >= 0:
            return  # somebody has asked for one meanwhile; the next is due some time after its end
        if is_paused(self._monitor.params):
            self._schedule()  # a frozen process answers nothing
            return
        if self._monitor.lean and self._monitor.code_has_changed():
            self._monitor.renew()  # what a probe imports would be of another rl than what it has in memory
        self._begin()

    # the child --------------------------------------------------------------------------------------
    def _begin(self, failed: str = "") -> None:
        """Fork a probe; with *failed* one that records only why the last one told nothing."""
        reader, writer = posix.pipe2(posix.O_CLOEXEC | posix.O_NONBLOCK)
        mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, range(1, 32))
        try:
            pid = posix.fork()
        except OSError:  # the limit of processes is reached, or there is no memory: no verdict about the container
            pid = -1
        if not pid:
            self._be_the_probe(writer, failed)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
        posix.close(writer)
        if pid < 0:
            posix.close(reader)
            self._answer(None)
            self._schedule()
            return
        seconds = 0 if failed else self.check["timeout"] / 1e9
        self._set(fd=reader, pid=pid, limit=time.monotonic() + seconds + GRACE)
        self._attend()

    def _be_the_probe(self, writer: int, failed: str) -> NoReturn:
        try:
            # Nothing of ours may be held or touched: our lock means "alive", our wake-up pipe would tell the
            # monitor of this process's signals.
            _signal.set_wakeup_fd(-1)
            for number in (_signal.SIGCHLD, _signal.SIGTERM, _signal.SIGINT, _signal.SIGURG):
                _signal.signal(number, _signal.SIG_DFL)
            posix.closerange(3, writer)
            posix.closerange(writer + 1, 1 << 30)
            _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
            from rl.monitor import probe

            probe.main(self._monitor.params, self.check, self.in_start_period(), writer, failed)
        finally:
            posix._exit(1)

    def _attend(self) -> None:
        """Wait for the result of the probe at work."""
        health = self.health
        self._monitor.watch(health["fd"], select.POLLIN, self._on_result)
        left = health["limit"] - time.monotonic() if health["limit"] else GRACE
        self._monitor.at(_LIMIT, left, self._give_up)

    def _give_up(self) -> None:
        """The probe hangs: its command ends with it, the end of the pipe says the rest."""
        try:
            posix.kill(self.health["pid"], 9)  # our child; reaped only after its pipe has told us
        except OSError:
            pass

    def _on_result(self, _events: int) -> None:
        health = self.health
        try:
            data = posix.read(health["fd"], 4096)
        except BlockingIOError:
            return
        self._monitor.forget(health["fd"])
        posix.close(health["fd"])
        self._monitor.cancel(_LIMIT)
        late = time.monotonic() >= health["limit"]
        self._set(fd=-1, pid=0)
        if not data and health["limit"] and not is_paused(self._monitor.params):
            self._begin("the probe hung and was killed" if late else "the probe was killed")
            health["limit"] = 0.0  # once: where that fails too, the container gets no verdict
            return
        verdict = marshal.loads(data) if data else {}
        code: int | None = verdict.pop("code", None)
        before, was_starting = health["status"], health["starting"]
        self._set(**verdict)
        self._answer(code)
        if was_starting and not health["starting"] and health["config"]["interval"]:
            health["due"] = time.monotonic()  # from here on the other check, and at once
            self._set_timer()
        else:
            self._schedule()
        self._follow(before)

    def _answer(self, code: int | None) -> None:
        """Tell who asked; None: there is no result."""
        waiting, self.health["waiting"] = self.health["waiting"], []
        if waiting:
            word = b"healthy" if code == 0 else b"starting" if self.health["starting"] else b"unhealthy"
            packet = b'\6{"probe": null}' if code is None else b'\6{"probe": %d, "status": "%s"}' % (code, word)
            for client in tuple(self._monitor.clients):
                if client.fd in waiting:
                    self._monitor.send(client, packet)

    # what follows -----------------------------------------------------------------------------------
    def _follow(self, before: str) -> None:
        """The on-failure action, on the way to unhealthy; a restart where the start-up check gave up."""
        health, config = self.health, self.health["config"]
        if health["status"] == "healthy" and self._monitor.params.get("notify"):
            from rl.monitor import notify

            notify.healthy(self._monitor)
        if health["starting"]:
            retries = config["startup"]["retries"]
            if retries and health["streak"] >= retries:
                self._monitor.request_stop(restart=True)
            return
        if health["status"] == before:
            return
        action = config.get("on_failure", "none") if health["status"] == "unhealthy" else ""
        if action == "kill":
            self._monitor.kill(9)
        elif action == "stop":
            self._monitor.request_stop()
        elif action == "restart":
            self._monitor.request_stop(restart=True)
