"""A host with systemd for the tests, without a virtual machine: systemd as PID 1 of namespaces of its own.

Its root is a Debian made by mmdebstrap (the machine's own release, so that the venv under test runs in it), its changes
are in memory, its /sys/fs/cgroup is cgroup v2 alone. An ordinary user, :data:`USER`, has subordinate ids and linger, and
comes in by `su`, which makes a real login session. Boots in a second, and leaves nothing.

What it cannot have are controllers, where the machine's kernel gives them to version 1: whether limits *hold* is tested
in a virtual machine (tests/vm).
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from support import driven
from support.images import CACHE

USER, UID = "alice", 1000
_PACKAGES = (
    "systemd", "libpam-systemd", "dbus-user-session", "uidmap", "python3", "passt", "fuse-overlayfs", "busybox-static",
    "procps", "util-linux", "iproute2", "crun", "runc",
)  # fmt: skip
#: Units that have nothing to do here, or would wait for hardware.
_MASKED = (
    "systemd-udevd.service", "systemd-udev-trigger.service", "systemd-udevd-kernel.socket", "console-getty.service",
    "systemd-udevd-control.socket", "getty@.service", "getty.target", "systemd-timesyncd.service", "apt-daily.timer",
    "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_reap.service", "e2scrub_all.timer", "fstrim.timer",
    "systemd-tmpfiles-clean.timer", "systemd-journal-flush.service", "systemd-journald-audit.socket",
    "systemd-update-utmp.service", "systemd-update-utmp-runlevel.service", "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount", "dev-hugepages.mount", "modprobe@.service",
)  # fmt: skip
_HOOKS = (
    f'chroot "$1" useradd --create-home --uid {UID} --shell /bin/bash {USER}',
    f'grep -q ^{USER}: "$1/etc/subuid" || echo {USER}:100000:65536 | tee -a "$1/etc/subuid" >> "$1/etc/subgid"',
    f'mkdir -p "$1/var/lib/systemd/linger"; touch "$1/var/lib/systemd/linger/{USER}"',
    f'for unit in {" ".join(_MASKED)}; do ln -sf /dev/null "$1/etc/systemd/system/$unit"; done',
    'echo uninitialized > "$1/etc/machine-id"',
    # What a session leaves behind is killed at its end: what survives is not of the session.
    'mkdir "$1/etc/systemd/logind.conf.d"; '
    r'printf "[Login]\nKillUserProcesses=yes\n" > "$1/etc/systemd/logind.conf.d/kill.conf"',
)

#: $1 image, $2 directory for mount points, $3 a directory to be seen inside at the same path. In a mount namespace.
_BOOT = r"""
mount --make-rprivate /
cd "$2"
mkdir cgroup memory
mount -t tmpfs -o mode=755 tmpfs memory
mkdir memory/upper memory/work memory/root
mount -t cgroup2 cgroup2 cgroup
mkdir "cgroup/rl-lab-$$"
echo $$ > "cgroup/rl-lab-$$/cgroup.procs"
exec unshare --cgroup --pid --fork --kill-child=KILL --uts --ipc --net --mount --propagation private \
    sh -euc "$4" lab "$1" "$2/memory" "$3"
"""
_INIT = r"""
root=$2/root
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
for at in dev run home; do mount -t tmpfs -o mode=755 tmpfs "$root/$at"; done
for device in null zero full random urandom tty fuse net/tun; do
    mkdir -p "$root/dev/net"; : > "$root/dev/$device"; mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"; ln -s /proc/self/fd "$root/dev/fd"
mkdir -p "$root$3"; mount --bind "$3" "$root$3"
cp -a "$1/home/." "$root/home/"
hostname rl-lab
ip link set lo up
# A network to look at for pasta; it leads nowhere.
ip link add eth0 type veth peer name eth1
ip addr add 10.11.12.13/24 dev eth0
ip link set eth0 up; ip link set eth1 up
ip route add default via 10.11.12.1
cd "$root"
pivot_root . .
umount -l .
exec env -i container=rl-lab PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --log-target=console --show-status=no
"""
_SWEEP = 'mount --make-rprivate /; mount -t cgroup2 cgroup2 "$1"; find "$1/$2" -depth -type d -exec rmdir {} +'


def image() -> Path:
    """The root file system, made now if this machine has none."""
    recipe = {"packages": _PACKAGES, "hooks": _HOOKS, "release": "bookworm"}
    stamp = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]
    root = CACHE / "images" / f"systemd-{stamp}"
    if root.is_dir():
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    work = root.parent / f".systemd-{os.getpid()}"
    command = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", f"--include={','.join(_PACKAGES)}"]
    command += ["--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/locale/*"]
    command += [f"--customize-hook={hook}" for hook in _HOOKS]
    done = subprocess.run([*command, "bookworm", str(work)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    try:
        work.rename(root)
    except OSError:  # another test run was faster
        shutil.rmtree(work)
    return root


class Lab:
    """The running host. Use it as a context manager."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="rl-lab-"))
        self.init = 0  # host pid of its PID 1
        self.search_path = f"{Path(sys.executable).parent}:/usr/bin:/bin:/usr/sbin:/sbin"
        self._log = open(self.directory / "console", "wb")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Lab:
        argv = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "sh", "-euc", _BOOT, "lab"]
        argv += [str(image()), str(self.directory), sys.prefix, _INIT]
        self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log)
        try:
            self._wait(self._find_init, "PID 1")
            self._wait(lambda: os.path.exists(self.path(f"/run/user/{UID}/bus")), "the user's manager")
            self._wait(self._is_up, "systemctl is-system-running")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Power off, and if that does not do, pull the plug; then remove its cgroups."""
        assert self._process is not None
        if self.init:
            os.kill(self.init, signal.SIGRTMIN + 4)  # systemd(1), SIGNALS
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                os.kill(self.init, signal.SIGKILL)
        else:
            self._process.kill()
        self._process.wait(20)
        self._log.close()
        mount_point, name = self.directory / "cgroup", f"rl-lab-{self._process.pid}"
        mount_point.mkdir(exist_ok=True)
        for _ in range(50):
            swept = ["unshare", "--mount", "sh", "-euc", _SWEEP, "sweep", str(mount_point), name]
            if subprocess.run(swept, capture_output=True).returncode == 0:
                break
            time.sleep(0.1)  # its last processes are still being torn down
        shutil.rmtree(self.directory)

    def _wait(self, check: object, what: str, seconds: float = 60) -> None:
        assert callable(check) and self._process is not None
        end = time.monotonic() + seconds
        while not check():
            if time.monotonic() > end or self._process.poll() is not None:
                raise AssertionError(f"{what} did not come up:\n{(self.directory / 'console').read_text()}")
            time.sleep(0.05)

    def _find_init(self) -> bool:
        """The child of unshare, once it is systemd."""
        assert self._process is not None
        try:
            children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
            if children and Path(f"/proc/{children[0]}/comm").read_text() == "systemd\n":
                self.init = int(children[0])
        except OSError:
            pass
        return bool(self.init)

    def _is_up(self) -> bool:
        return self.root("systemctl", "is-system-running").stdout.strip() == "running"

    def path(self, inside: str) -> str:
        """A path of the lab's, from outside."""
        return f"/proc/{self.init}/root{inside}"

    def _enter(self, argv: list[str], **kwargs: object) -> subprocess.CompletedProcess[str]:
        """In all its namespaces, and in a cgroup of the lab's own."""
        procs = self.path("/sys/fs/cgroup/system.slice/cgroup.procs")
        script = f'echo $$ > {procs}; exec nsenter -t {self.init} -m -p -u -i -n -C -r -w env -i "$@"'
        words = ["sh", "-euc", script, "enter", f"PATH={self.search_path}", "LANG=C.UTF-8", *argv]
        return subprocess.run(words, capture_output=True, text=True, **kwargs)  # type: ignore[call-overload,no-any-return]

    def root(self, *argv: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command as root."""
        return self._enter(list(argv), timeout=timeout, stdin=subprocess.DEVNULL)

    def run(
        self, *argv: str, timeout: float = 120, env: Mapping[str, str] | None = None, check: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as the ordinary user, in a login session of its own that ends with it."""
        driven.note_command(argv)
        variables = {"PATH": self.search_path, "LANG": "C.UTF-8", **(env or {})}
        line = shlex.join(["env", *(f"{key}={value}" for key, value in variables.items()), *argv])
        done = self._enter(["su", "-l", USER, "-c", f"exec {line}"], timeout=timeout, stdin=subprocess.DEVNULL)
        if check:
            assert done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def ok(self, *argv: str, timeout: float = 120) -> str:
        """stdout of the user's command, which must succeed, without the final newline."""
        return self.run(*argv, timeout=timeout, check=True).stdout.removesuffix("\n")
