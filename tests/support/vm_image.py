"""The virtual machine of the tests: a Debian with systemd as a disk image, its kernel, a small initrd, a disk for one run.

The image is made once per machine, in $RL_TEST_CACHE/images: mmdebstrap's root file system with an ordinary user, whose
virtual environment already has rl's dependencies. What changes (rl's wheel, the guest's scripts, test images) comes on
a second disk, mounted read-only on /srv/lab, so that a change of it costs no new image.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from support.images import CACHE, add, archive_of, busybox_layer

REPOSITORY = Path(__file__).resolve().parents[2]
GUEST = REPOSITORY / "tests/vm/guest"
USER = "user"  # uid 1000 of the machine

_PACKAGES = (
    "systemd", "systemd-sysv", "udev", "dbus-user-session", "libpam-systemd", "linux-image-cloud-amd64", "kmod", "procps",
    "iproute2", "python3", "python3-venv", "uidmap", "passt", "slirp4netns", "fuse-overlayfs", "busybox-static", "crun",
    "runc", "docker-registry",
)  # fmt: skip
#: Modules that Debian's cloud kernel needs before it sees its disks (ext4 is built in), in the order of their needs.
_MODULES = (
    "virtio/virtio_ring", "virtio/virtio", "virtio/virtio_pci_legacy_dev", "virtio/virtio_pci_modern_dev",
    "virtio/virtio_pci", "block/virtio_blk", "char/virtio_console",
)  # fmt: skip

#: Run by mmdebstrap with the new root as $1. What a fresh server has, without what only makes it boot more slowly;
#: logind ends what a closed session leaves (KillUserProcesses), for that is the harder case for containers.
_CUSTOMIZE = f"""#!/bin/sh
set -e
root=$1
echo rlvm > "$root/etc/hostname"
printf '127.0.0.1 localhost rlvm\\n::1 localhost\\n' > "$root/etc/hosts"
chroot "$root" useradd --create-home --uid 1000 --shell /bin/bash {USER}
grep -q '^{USER}:' "$root/etc/subuid" || echo '{USER}:100000:65536' | tee -a "$root/etc/subuid" >> "$root/etc/subgid"
mkdir -p "$root/srv/lab" "$root/etc/systemd/logind.conf.d" "$root/etc/systemd/journald.conf.d"
printf '[Login]\\nKillUserProcesses=yes\\n' > "$root/etc/systemd/logind.conf.d/lab.conf"
printf '[Journal]\\nStorage=persistent\\nRateLimitIntervalSec=0\\n' > "$root/etc/systemd/journald.conf.d/lab.conf"
echo 'KERNEL=="vport*", MODE="0666"' > "$root/etc/udev/rules.d/60-lab.rules"
unit() {{ cat > "$root/etc/systemd/system/$1"; ln -s "../$1" "$root/etc/systemd/system/multi-user.target.wants/$1"; }}
unit lab-root.service <<'UNIT'
[Unit]
Description=Commands of the tests, as root
After=dbus.service systemd-logind.service
[Service]
ExecStart=/usr/bin/python3 /srv/lab/agent.py /dev/virtio-ports/lab.root
OOMPolicy=continue
UNIT
unit lab-user.service <<'UNIT'
[Unit]
Description=Commands of the tests, in a login session of the user
After=systemd-user-sessions.service dbus.service systemd-logind.service lab-root.service
[Service]
User={USER}
PAMName=login
WorkingDirectory=~
ExecStart=/usr/bin/python3 /srv/lab/agent.py /dev/virtio-ports/lab.user
OOMPolicy=continue
UNIT
chroot "$root" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \\
    e2scrub_reap.service fstrim.timer getty@tty1.service systemd-networkd-wait-online.service
chroot "$root" systemctl --quiet disable docker-registry.service
cp -r "$WHEELS" "$root/tmp/wheels"
chroot "$root" setpriv --reuid {USER} --regid {USER} --init-groups env -i HOME=/home/{USER} PATH=/usr/bin:/bin sh -ec '
    cd; python3 -m venv venv
    venv/bin/pip install --quiet --disable-pip-version-check --no-index --find-links /tmp/wheels setuptools /tmp/wheels/*.whl'
rm -rf "$root/tmp/wheels" "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin
"""

#: The first program of the machine: sees the disks, mounts both, goes on in the real root.
_INITRD_INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev; mount -t proc proc /proc
for module in /modules/*.ko; do insmod "$module"; done
mount -t ext4 /dev/vda /root
mount -t ext4 -o ro /dev/vdb /root/srv/lab
init=/sbin/init
for word in $(cat /proc/cmdline); do case $word in lab.init=*) init=${word#lab.init=};; esac; done
mount --move /dev /root/dev; umount /proc
exec switch_root /root "$init"
"""


@dataclass(frozen=True)
class Base:
    """What every machine starts from; never written to."""

    disk: Path
    kernel: Path
    initrd: Path


def _dependencies() -> list[str]:
    """rl's requirements, as pyproject.toml has them, for the machine's Python 3.11."""
    import tomli

    project = tomli.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return [need.partition(";")[0].strip() for need in project["dependencies"] if "python_version <" not in need]


def missing() -> list[str]:
    """The programs that are needed and not installed."""
    return [name for name in ("qemu-system-x86_64", "qemu-img", "mmdebstrap", "mkfs.ext4") if not shutil.which(name)]


def base() -> Base:
    """The image, made now (2 minutes) if this machine has none of this recipe."""
    (CACHE / "images").mkdir(parents=True, exist_ok=True)
    with open(CACHE / "images/.vm.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the rounds of power cuts want it, too (support.vm_plug)
        return _base()


def _base() -> Base:
    needs = _dependencies()
    recipe = repr((_PACKAGES, _MODULES, _CUSTOMIZE, _INITRD_INIT, needs))
    directory = CACHE / "images" / f"vm-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    if not directory.exists():
        work = Path(tempfile.mkdtemp(prefix=".vm-", dir=directory.parent))
        try:
            _build(work, needs)
            (work / "result").rename(directory)
        except OSError:
            if not directory.exists():  # another run was faster
                raise
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return Base(directory / "disk.ext4", directory / "vmlinuz", directory / "initrd")


def _run(*command: str | Path, **environment: str) -> None:
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=900, env={**os.environ, **environment}
    )
    if done.returncode:
        raise AssertionError(f"{command[0]}: exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def _build(work: Path, needs: list[str]) -> None:
    root, wheels, result, hook = work / "root", work / "wheels", work / "result", work / "customize"
    for path in (root, result):
        path.mkdir()
    _run(
        sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--python-version", "3.11",
        "--implementation", "cp", "--abi", "cp311", "--abi", "abi3", "--abi", "none", "--platform", "manylinux_2_28_x86_64",
        "--platform", "manylinux_2_17_x86_64", "--platform", "manylinux2014_x86_64", "--dest", wheels, *needs,
        "setuptools>=77", "wheel",
    )  # fmt: skip
    hook.write_text(_CUSTOMIZE)
    hook.chmod(0o755)
    # Our own initrd: Debian's would take longer to make, and to boot.
    _run(
        "mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(_PACKAGES)}",
        "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
        "--dpkgopt=path-exclude=/usr/share/man/*", f"--customize-hook={hook}", "bookworm", root,
        INITRD="No", WHEELS=str(wheels),
    )  # fmt: skip
    kernel = next((root / "boot").glob("vmlinuz-*"))
    shutil.copy(kernel, result / "vmlinuz")
    drivers = next((root / "lib/modules").iterdir()) / "kernel/drivers"
    modules = {f"{n}-{Path(name).name}.ko": (drivers / f"{name}.ko").read_bytes() for n, name in enumerate(_MODULES)}
    (result / "initrd").write_bytes(gzip.compress(_initrd((root / "bin/busybox").read_bytes(), modules), 6))
    file_system(result / "disk.ext4", root, 4 << 30)


def _initrd(busybox: bytes, modules: dict[str, bytes]) -> bytes:
    """A cpio archive in the format of the kernel's Documentation/driver-api/early-userspace/buffer-format.rst."""
    archive = io.BytesIO()

    def entry(name: str, mode: int, data: bytes = b"") -> None:
        fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        archive.write(b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0")
        archive.write(b"\0" * (-archive.tell() % 4) + data + b"\0" * (-len(data) % 4))

    for name in ("bin", "dev", "proc", "root", "modules"):
        entry(name, 0o040755)
    entry("bin/busybox", 0o100755, busybox)
    entry("init", 0o100755, _INITRD_INIT.encode())
    for name, data in sorted(modules.items()):
        entry(f"modules/{name}", 0o100644, data)
    entry("TRAILER!!!", 0)
    return archive.getvalue()


def file_system(disk: Path, content: Path, size: int) -> Path:
    """An ext4 image of *content* at *disk*: *size* bytes, sparse."""
    with open(disk, "wb") as file:
        file.truncate(size)
    _run("mkfs.ext4", "-q", "-F", "-d", content, "-E", "lazy_itable_init=1,lazy_journal_init=1", disk)
    return disk


def wheel(directory: Path) -> Path:
    """rl's wheel of the working copy in *directory*; the working copy is not written to."""
    with tempfile.TemporaryDirectory() as name:
        listed = ["git", "-C", str(REPOSITORY), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        for path in subprocess.run(listed, capture_output=True, check=True, text=True).stdout.split("\0"):
            if path.startswith(("rl/", "helpers/", "pyproject", "README", "LICENSE")) and (REPOSITORY / path).is_file():
                (Path(name) / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(REPOSITORY / path, Path(name) / path)
        _run(
            sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", directory, name
        )
    return next(directory.glob("rl-*.whl"))


def lab_disk(directory: Path, extra: dict[str, Path] | None = None) -> Path:
    """The second disk: rl's wheel, the guest's scripts, a busybox image, and *extra* files and directories by name."""
    content = directory / "lab"
    shutil.copytree(GUEST, content, ignore=shutil.ignore_patterns("__pycache__"))
    wheel(content)
    busybox_layer(content / "busybox-layer.tar")
    archive_of(content / "busybox.tar", [content / "busybox-layer.tar"], {"Cmd": ["sh"]}, "busybox:latest")
    (content / "busybox-layer.tar").unlink()
    for name, path in (extra or {}).items():
        (shutil.copytree if path.is_dir() else shutil.copy)(path, content / name)  # type: ignore[operator]
    return file_system(directory / "lab.ext4", content, 256 << 20)


def overlay(disk: Path, base_disk: Path) -> Path:
    """A disk that begins as *base_disk* and keeps what is written by itself."""
    _run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base_disk.resolve(), disk)
    return disk


def layer(path: Path, files: dict[str, bytes]) -> Path:
    """A layer of *files* as a tar file at *path*."""
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            add(tar, name, data)
    return path
