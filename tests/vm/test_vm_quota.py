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
        vm.root(f"{RL} volume create -o o=size=1m,inodes=10 small; {RL} volume create large")
        said = vm.root(
            "cd /q/rl/volumes; dd if=/dev/zero of=large/_data/x bs=1M count=3 2>&1; dd if=/dev/zero of=small/_data/x bs=1M count=3 2>&1"
            " || stat -c %s small/_data/x; rm small/_data/x; for i in 1 2 3 4 5 6 7 8 9 10 11 12; do : > small/_data/$i || true; done; "
            "ls small/_data | wc -l"
        )
        assert "quota exceeded" in said.lower()
        lines = said.splitlines()
        assert 900_000 < int(next(line for line in lines[3:] if line.isdigit())) <= 1_048_576
        assert int(lines[-1]) == 9  # the directory counts
        assert '"SIZE": "1048576"' in vm.root(f"{RL} volume inspect small")
    finally:
        vm.root(f"{RL} system reset --force; umount /q; rm /quota.img")
