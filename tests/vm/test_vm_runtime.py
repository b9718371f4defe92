"""`rl-runtime` where limits are enforced, and where root has all its rights."""

from __future__ import annotations

import json

from conftest import Vm

_BUNDLE = """
rm -rf {where}; mkdir -p {where}/rootfs/bin {where}/rootfs/proc {where}/rootfs/dev {where}/rootfs/sys; cd {where}
cp /bin/busybox rootfs/bin/busybox
for name in sh true tail cat sleep; do ln -s busybox rootfs/bin/$name; done
PATH=/home/user/venv/bin:$PATH
rl-runtime spec {flags}
python3 - <<'END'
import json
spec = json.load(open("config.json"))
spec["process"].update(terminal=False, args=["sh", "-c", {script!r}])
spec["process"]["rlimits"] = {rlimits}
spec["linux"].setdefault("resources", {{}}).update({resources})
{more}
json.dump(spec, open("config.json", "w"))
END
"""


def _bundle(where: str, script: str, flags: str = "", rlimits: object = (), resources: object = None, more: str = "") -> str:
    return _BUNDLE.format(
        where=where, script=script, flags=flags, rlimits=list(rlimits), resources=resources or {}, more=more  # type: ignore[call-overload]
    )


def test_real_root_raises_limits(vm: Vm) -> None:
    """Above the caller's hard limit, also into a user namespace, where the container itself could not."""
    limits = [{"type": "RLIMIT_NOFILE", "soft": 600, "hard": 700}]
    mapped = (
        'spec["linux"]["namespaces"].append({"type": "user"})\n'
        'for kind in ("uid", "gid"):\n'
        '    spec["linux"][f"{kind}Mappings"] = [{"containerID": 0, "hostID": 0, "size": 65536}]'
    )
    for more in ("", mapped):
        more += '\nspec["process"]["oomScoreAdj"] = -300'
        script = "ulimit -Hn; ulimit -n; cat /proc/self/oom_score_adj"
        said = vm.root(_bundle("/root/b", script, rlimits=limits, more=more) + "prlimit --nofile=500:500 rl-runtime run one")
        assert said.split() == ["700", "600", "-300"], said


def test_limits_of_a_scope(vm: Vm) -> None:
    """As a user, with --systemd-cgroup: the hog is killed, the event is told, an update counts."""
    vm.sh(_bundle("~/b", "sleep 1000", "--rootless", resources={"memory": {"limit": 64 << 20, "swap": 64 << 20}, "pids": {"limit": 40}}))
    runtime = "cd ~/b; rl-runtime --systemd-cgroup"
    vm.sh(f"{runtime} run --detach one < /dev/null > /dev/null 2>&1")
    try:
        state = json.loads(vm.sh(f"{runtime} state one"))
        group = vm.sh(f"sed -n s/^0:://p /proc/{state['pid']}/cgroup").strip()
        assert ".scope" in group and "user@1000.service" in group
        read = f"cat /sys/fs/cgroup{group}"
        assert vm.sh(f"{read}/memory.max").strip() == str(64 << 20) and vm.sh(f"{read}/pids.max").strip() == "40"
        done = vm.machine.user("sh", "-c", f"{runtime} exec one tail /dev/zero")
        assert done.returncode == 137 and "limits do not count" not in done.stderr, done.stderr
        figures = json.loads(vm.sh(f"{runtime} events --stats one"))["data"]
        assert figures["memory"]["usage"]["limit"] == 64 << 20 and figures["pids"]["limit"] == 40
        vm.sh(f"{runtime} update --pids-limit 30 one")
        assert vm.sh(f"{read}/pids.max").strip() == "30"
    finally:
        vm.sh(f"{runtime} delete --force one")
