"""A size for a plain volume: a project quota, which needs root, ext4 with the feature, and a kernel that has quotas."""

from __future__ import annotations

from vm.conftest import Vm

RL = "/home/user/venv/bin/rl --root /q/rl --runroot /run/q"
PREPARE = """
modprobe loop; modprobe quota_v2
truncate -s 64M /quota.img && mkfs.ext4 -q -O quota,project -E quotatype=prjquota /quota.img
mkdir -p /q && mount -o loop,prjquota /quota.img /q
"""


def test_size_and_inodes(vm: Vm) -> None:
    """Who writes more is told that the quota is used up; other volumes are not touched by it."""
    refused = vm.root(f"{RL.replace('/q/rl', '/var/lib/rl-plain')} volume create -o o=size=1m v 2>&1 || true")
    assert "Filesystem does not support Project Quota" in refused and "prjquota" in refused
    vm.root(PREPARE)
    try:
        vm.root(f"{RL} load -q -i /srv/lab/busybox.tar")
        vm.root(f"{RL} volume create -o o=size=1m,inodes=10 small; {RL} volume create large")
        said = vm.root(
            f"{RL} run --rm --network=none -v large:/large -v small:/small busybox sh -c '"
            "dd if=/dev/zero of=/large/x bs=1M count=3 2>/dev/null; dd if=/dev/zero of=/small/x bs=64k count=48 2>&1 | grep -i exceeded; "
            "stat -c %s /large/x /small/x; rm /small/x; for i in 1 2 3 4 5 6 7 8 9 10 11 12; do touch /small/$i 2>/dev/null; done; "
            "ls /small | wc -l'"
        )
        error, large, small, files = said.splitlines()
        assert "quota exceeded" in error.lower()
        assert (int(large), int(files)) == (3 << 20, 9)  # the directory counts
        assert 900_000 < int(small) <= 1 << 20
        assert '"SIZE": "1048576"' in vm.root(f"{RL} volume inspect small")
    finally:
        vm.root(f"{RL} system reset --force; umount /q; rm /quota.img")
