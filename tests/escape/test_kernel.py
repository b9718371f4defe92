"""Ways out through the kernel: system calls, mounts, devices, nested namespaces, what --privileged may."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from escape.conftest import verdicts
from system.conftest import Rl

BOX = ("run", "--rm", "--network=none")

#: What the default profile must refuse, by EPERM or ENOSYS; by the kernel's other entries too.
FORBIDDEN = """io_uring_setup userfaultfd bpf perf_event_open add_key request_key kexec_load init_module finit_module
delete_module open_by_handle_at settimeofday swapon acct syslog quotactl move_pages nfsservctl lookup_dcookie iopl ioperm
bpf-32bit perf_event_open-32bit bpf-x32 keyctl-x32""".split()


@pytest.fixture(params=["user", "root"])
def each(request: pytest.FixtureRequest) -> Rl:
    """An ordinary user, then real root."""
    rl: Rl = request.getfixturevalue("rl" if request.param == "user" else "root_rl")
    return rl


def test_forbidden_system_calls(each: Rl) -> None:
    found = verdicts(each.ok(*BOX, "attack", "attack", "syscalls"))
    assert {name: found[name] for name in FORBIDDEN if found[name] not in ("EPERM", "ENOSYS")} == {}
    assert found["getpid-32bit"] == "ok"  # 32-bit programs run; only what is forbidden is
    assert found["keyctl"] == "ok"  # as Podman's profile; the keyring is a new one (test_processes)


def test_control_system_calls_without_filter(rl: Rl) -> None:
    """Unconfined, other errors come from the kernel itself: the filter is what refused them."""
    found = verdicts(rl.ok(*BOX, "--security-opt", "seccomp=unconfined", "attack", "attack", "syscalls"))
    reached = [name for name in FORBIDDEN if found[name] not in ("EPERM", "ENOSYS")]
    assert {"add_key", "request_key", "quotactl", "move_pages"} <= set(reached), found


#: attempt → what of a default container, of one that is root in a nested namespace. "ok" only where it is harmless.
DEFAULT = {
    "mount tmpfs": "EPERM", "mount proc": "EPERM", "mount sysfs": "EPERM", "mount cgroup": "EPERM", "mount devtmpfs": "EPERM",
    "mount debugfs": "EPERM", "mount binfmt_misc": "EPERM", "mount block": "EPERM", "remount /proc/sys": "EPERM",
    "remount /sys": "EPERM", "remount read-only": "EPERM", "umount /proc/sys": "EPERM", "umount /sys/firmware": "EPERM",
    "umount /proc": "EPERM", "bind /proc": "EPERM", "rbind /proc": "EPERM", "pivot_root": "EPERM", "write read-only": "EROFS",
    "sysrq-trigger is real": "EPERM",
}
NESTED = {
    **DEFAULT, "mount tmpfs": "ok", "umount /proc/sys": "EINVAL", "umount /sys/firmware": "EINVAL", "umount /proc": "EINVAL",
    "bind /proc": "EINVAL", "rbind /proc": "ok", "pivot_root": "EINVAL",
}
NESTED.pop("mount binfmt_misc")  # since Linux 6.7 one of its own


def test_mount_tricks(each: Rl) -> None:
    """Without CAP_SYS_ADMIN nothing can be mounted or unmounted."""
    found = verdicts(each.ok(*BOX, "-v", "/etc:/ro:ro", "attack", "attack", "mounts"))
    assert {name: found[name] for name in DEFAULT} == DEFAULT
    assert found["write core_pattern"] in ("EACCES", "EROFS")


def test_mount_tricks_in_a_nested_user_namespace(rl: Rl) -> None:
    """`unshare -Ur` is allowed, as with Podman's profile; what covers /proc and what is read-only is locked in there."""
    assert rl.ok(*BOX, "attack", "unshare", "-Ur", "id", "-u") == "0"
    shared = rl.user.home / "locked"
    shared.mkdir(exist_ok=True)
    shared.chmod(0o777)
    for user in ("0", "1000"):
        text = rl.ok(*BOX, "-v", f"{shared}:/ro:ro", "--user", user, "attack", "attack", "nested", "mounts")
        found = verdicts(text)
        assert text.startswith("uid 0\n")
        assert {name: found[name] for name in NESTED} == NESTED, user
        assert found["write core_pattern"] in ("EACCES", "EROFS")
        assert found["read kcore below"] in ("EACCES", "ENOENT")
    assert not os.listdir(shared)


def test_nested_namespace_gives_no_rights_outside_of_it(rl: Rl) -> None:
    for what in ("devices", "clocks"):
        found = verdicts(rl.ok(*BOX, "--user", "1000", "--workdir", "/tmp", "attack", "attack", "nested", what))
        found.pop("uid")
        found.pop("sethostname", None)
        assert set(found.values()) == {"EPERM"}, found


def test_mounts_with_cap_sys_admin_stay_inside(rl: Rl) -> None:
    """CAP_SYS_ADMIN counts in the user namespace only: its own mounts, never a device or the host's settings."""
    found = verdicts(rl.ok(*BOX, "--cap-add", "SYS_ADMIN", "attack", "attack", "mounts"))
    assert found["mount tmpfs"] == "ok"  # the control
    for name in ("mount devtmpfs", "mount debugfs", "mount block", "sysrq-trigger is real"):
        assert found[name] == "EPERM", (name, found)
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    script = "umount /proc/sys; mount -o remount,rw /proc/sys; mount -t proc p /mnt; echo evil >/mnt/sys/kernel/core_pattern; echo evil >/proc/sys/kernel/core_pattern"
    rl(*BOX, "--cap-add", "SYS_ADMIN", "attack", "sh", "-c", script)
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before


def test_release_agent(rl: Rl) -> None:
    """CVE-2022-0492: a cgroup v1 hierarchy with notify_on_release runs a program as the host's root."""
    script = """
        for c in memory cpu pids rdma; do mkdir -p /tmp/$c; mount -t cgroup -o $c c /tmp/$c; done 2>/dev/null
        for f in $(find /tmp /sys/fs/cgroup -name release_agent -o -name notify_on_release); do
            (echo 1 >$f) 2>/dev/null && echo $f
        done; true
    """
    for flags in ((), ("--privileged",), ("--cap-add=SYS_ADMIN", "--security-opt", "seccomp=unconfined")):
        assert rl.ok(*BOX, *flags, "attack", "sh", "-c", script) == "", flags
        assert rl.ok(*BOX, *flags, "attack", "unshare", "-Urm", "sh", "-c", script) == "", flags


@pytest.mark.parametrize("flags", [(), ("--privileged",), ("--cap-add=MKNOD",)])
def test_devices_cannot_be_made(rl: Rl, flags: tuple[str, ...]) -> None:
    found = verdicts(rl.ok(*BOX, *flags, "--workdir", "/tmp", "attack", "attack", "devices"))
    assert len(found) == 7 and set(found.values()) == {"EPERM"}, found


def test_control_devices_can_be_made_by_root(programs: Path, tmp_path: Path) -> None:
    text = subprocess.run([programs / "attack", "devices"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert set(verdicts(text).values()) == {"ok"}


def test_devices_of_the_host_stay_closed(rl: Rl) -> None:
    """Also where all of /dev, or a directory with a block device in it, is bound in."""
    disks = [name for name in os.listdir("/dev") if name.startswith(("vd", "sd", "nvme", "mem"))]
    assert disks
    script = "for d in " + " ".join(disks) + "; do dd if=/d/$d of=/dev/null bs=512 count=1 2>/dev/null && echo $d; done; true"
    for flags in ((), ("--privileged",)):
        assert rl.ok(*BOX, *flags, "-v", "/dev:/d:dev", "attack", "sh", "-c", script) == "", flags


def test_root_container_sees_no_device(root_rl: Rl) -> None:
    found = verdicts(root_rl.ok(*BOX, "--workdir", "/tmp", "attack", "attack", "devices"))
    assert set(found.values()) == {"EPERM"}  # CAP_MKNOD is not among the default capabilities
    devices = root_rl.ok(*BOX, "attack", "sh", "-c", "find /dev -type b; find /dev -name mem -o -name kmsg -o -name port")
    assert devices == ""


# --privileged: everything that the user may, nothing that the user may not

def test_privileged_is_confined_to_the_users_rights(rl: Rl) -> None:
    script = """
        cat /host/etc/shadow; ls /host/root; echo x >/host/etc/rl-escape; chroot /host cat /etc/shadow
        chroot /host sh -c 'echo x >/etc/rl-escape'; echo b >/host/proc/sysrq-trigger
        echo x >/host/sys/power/state; insmod /host/none; nsenter -t 1 -m true
        chown 0:0 /host/etc/passwd; chmod u+s /host/bin/busybox; mount -o remount,rw /host && mount --bind /tmp /host/etc; true
    """
    before = Path("/etc/passwd").stat(), Path("/bin/busybox").stat().st_mode, os.listdir("/etc")
    done = rl(*BOX, "--privileged", "-v", "/:/host", "attack", "sh", "-c", script)
    assert "root:" not in done.stdout, done.stdout
    assert (Path("/etc/passwd").stat(), Path("/bin/busybox").stat().st_mode, os.listdir("/etc")) == before
    assert "shadow" in done.stderr and "ermission denied" in done.stderr
    assert rl.ok(*BOX, "--privileged", "-v", "/:/host", "attack", "cat", f"/host{rl.user.home}/.bash_logout")  # the control: what is the user's


def test_privileged_cannot_change_clock_or_load_modules(rl: Rl) -> None:
    found = verdicts(rl.ok(*BOX, "--privileged", "attack", "attack", "clocks"))
    assert (found["clock_settime"], found["settimeofday"]) == ("EPERM", "EPERM")
    assert found["sethostname"] == "ok"  # its own
    assert os.uname().nodename != "escaped"
    calls = verdicts(rl.ok(*BOX, "--privileged", "attack", "attack", "syscalls"))
    for name in ("init_module", "finit_module", "delete_module", "kexec_load", "swapon", "acct", "settimeofday", "iopl", "ioperm"):
        assert calls[name] in ("EPERM", "ENOSYS"), (name, calls[name])


def test_reboot_ends_the_container_only(rl: Rl) -> None:
    boot, began = Path("/proc/sys/kernel/random/boot_id").read_text(), time.monotonic()
    assert rl.ok(*BOX, "attack", "attack", "reset") == "reboot EPERM"
    done = rl(*BOX, "--privileged", "attack", "attack", "reset")
    assert done.returncode == 129, done  # reboot(2) in a pid namespace: its init gets SIGHUP
    assert Path("/proc/sys/kernel/random/boot_id").read_text() == boot and time.monotonic() - began < 60
    done = rl(*BOX, "--privileged", "--pid=host", "attack", "attack", "reset")
    assert "reboot EPERM" in done.stdout  # there is no namespace of its own to end


def test_hidden_files(each: Rl) -> None:
    script = "cat /proc/kcore /proc/keys /proc/timer_list /proc/sched_debug /proc/scsi/scsi /sys/firmware/*/* /proc/kmsg /dev/mem /dev/kmsg /dev/port 2>/dev/null | wc -c"
    assert each.ok(*BOX, "attack", "sh", "-c", script).strip() == "0"
