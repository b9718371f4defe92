#!/usr/bin/python3
"""The first program of the machine whose plug is pulled: no systemd, so that a round takes seconds.

It mounts what a system has, hands a cgroup to the user, starts a registry, and goes on as the user: look whether
everything is whole, tell so, then pull, run and remove until the power goes. A message is a line of JSON on a serial port.

What is whole: /srv/lab/layers.json has every layer by its diff id, with each file's checksum; a layer that rl has is complete,
an image that rl lists runs, no container is said to be running, and everything can be removed and pulled again.
"""

import hashlib
import json
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

UID = 1000
HOME = Path("/home/user")
DATA = HOME / ".local/share/rl"
RL = str(HOME / "venv/bin/rl")
IMAGES = [f"127.0.0.1:5000/{name}:latest" for name in ("one", "two", "three")]
ENVIRONMENT = {
    "HOME": str(HOME), "USER": "user", "PATH": f"{HOME}/venv/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LANG": "C.UTF-8",
    "XDG_RUNTIME_DIR": f"/run/user/{UID}",
}  # fmt: skip


def mount(kind, target, options=""):
    os.makedirs(target, exist_ok=True)
    subprocess.run(["mount", "-t", kind, *(["-o", options] if options else []), kind, target], check=True)


def system():
    """What systemd would have done; the channel's descriptor."""
    os.environ["PATH"] = ENVIRONMENT["PATH"]
    mount("proc", "/proc")
    mount("sysfs", "/sys")
    mount("devpts", "/dev/pts", "mode=620,ptmxmode=666")
    for target in ("/dev/shm", "/run", "/tmp"):
        mount("tmpfs", target, "mode=1777")
    mount("cgroup2", "/sys/fs/cgroup")
    Path("/sys/fs/cgroup/cgroup.subtree_control").write_text("+cpu +memory +pids")
    own = Path("/sys/fs/cgroup/lab")
    own.mkdir()
    for path in (own, own / "cgroup.procs", own / "cgroup.subtree_control", own / "cgroup.threads"):
        os.chown(path, UID, UID)
    for module in ("overlay", "fuse", "tun"):
        subprocess.run(["modprobe", module], check=True)
    for device in ("null", "zero", "full", "random", "urandom", "tty", "fuse", "net/tun"):
        os.chmod(f"/dev/{device}", 0o666)
    for link, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        os.symlink(f"/proc/self/fd{target}", f"/dev/{link}")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    run = Path(ENVIRONMENT["XDG_RUNTIME_DIR"])
    run.mkdir(parents=True)
    os.chown(run, UID, UID)
    run.chmod(0o700)
    storage = {"filesystem": {"rootdirectory": "/srv/lab/registry"}, "maintenance": {"readonly": {"enabled": True}}}
    Path("/run/registry.json").write_text(json.dumps({
        "version": "0.1", "log": {"level": "error"}, "http": {"addr": "127.0.0.1:5000", "secret": "x"}, "storage": storage,
    }))  # fmt: skip
    log = open("/run/registry.log", "wb")
    subprocess.Popen(["docker-registry", "serve", "/run/registry.json"], stdout=log, stderr=log)
    ports = [path.parent.name for path in Path("/sys/class/virtio-ports").glob("*/name") if path.read_text().strip() == "lab.root"]
    return os.open(f"/dev/{ports[0]}", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)


class User:
    """The rest, as the user."""

    def __init__(self, port, seed, number):
        self.port = port
        self.number = number
        self.problems = []
        self.random = random.Random(seed)
        self.layers = json.loads(Path("/srv/lab/layers.json").read_text())

    def send(self, message):
        # A reset may have cut a line short: begin a new one.
        os.write(self.port, b"\n" + json.dumps(message).encode() + b"\n")

    def rl(self, *arguments, check=True):
        try:
            done = subprocess.run(
                [RL, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, env=ENVIRONMENT,
                cwd=HOME,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            self.problems.append(f"rl {' '.join(arguments)}: no end")
            return ""
        if check and done.returncode:
            self.problems.append(f"rl {' '.join(arguments)}: {done.returncode}: {done.stdout}{done.stderr}"[-600:])
        if "Traceback" in done.stderr:
            self.problems.append(f"rl {' '.join(arguments)}: {done.stderr}"[-1500:])
        return done.stdout

    def install(self):
        if not os.path.exists(RL):
            subprocess.run(
                [f"{HOME}/venv/bin/pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--find-links",
                 "/srv/lab", "rl"],
                check=True, env=ENVIRONMENT,
            )  # fmt: skip
            os.sync()

    def check(self):
        """Everything is whole; then as a user would after a power cut: run, remove, pull again."""
        shown = [line.split() for line in self.rl("ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.State}}").splitlines()]
        if running := [words for words in shown if words[1] not in ("created", "exited")]:
            self.problems.append(f"after a power cut rl ps says: {running}")
        containers = [words[0] for words in shown]
        on_disk = [path.name for path in (DATA / "containers").glob("[0-9a-f]*")]
        if sorted(containers) != sorted(on_disk):
            self.problems.append(f"containers: rl ps -a has {containers}, the disk {on_disk}")
        images = self.rl("images", "--format", "{{.Repository}}:{{.Tag}}").split()
        if set(images) - set(IMAGES):
            self.problems.append(f"images nobody has pulled: {images}")
        self.check_layers()
        kept = DATA / "names/kept"
        if self.number and not kept.is_symlink():
            self.problems.append("a container is missing that had been on the disk before the power cut")
        if containers:
            self.rl("start", self.random.choice(containers))
            self.rl("rm", "-f", "-t", "0", *containers)
        missing = [name for name in IMAGES if name not in images]
        name = self.random.choice(missing or IMAGES)
        if not missing:
            self.rl("rmi", name)  # no container uses it any more
        self.rl("pull", "-q", name)
        self.try_image(self.random.choice([name, *images]))
        self.rl("create", "--name", "kept", "--network", "none", name, "true")
        os.sync()  # so this one has to be there next time; what is younger may be absent, never half there
        return {"images": len(images), "containers": len(containers)}

    def check_layers(self):
        """Every layer that is there has every file with the content it should have."""
        for record in (DATA / "layers").glob("[0-9a-f]*"):
            expected = self.layers.get(record.name)
            if expected is None:
                self.problems.append(f"a layer nobody has pulled: {record}")
                continue
            root = record / "fs"
            found = {str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file() and not path.is_symlink()}
            wrong = set(found) ^ set(expected)
            for name in set(found) & set(expected):
                if hashlib.sha256(found[name].read_bytes()).hexdigest() != expected[name]:
                    wrong.add(name)
            if wrong:
                self.problems.append(f"layer {record.name[:12]} is not what was pulled: {sorted(wrong)[:5]} of {len(wrong)}")

    def try_image(self, name):
        said = self.rl("run", "--rm", "--network", "none", name, "sh", "-c", "sha256sum -c -s /sums && echo whole")
        if said != "whole\n":
            self.problems.append(f"{name} is not whole: {said!r}")

    def work(self):
        """Whatever changes the disk, two at a time, until the power goes; what fails is looked at after it has come back."""
        while True:
            name = self.random.choice(IMAGES)
            for command in self.random.choice([
                [("rmi", name), ("pull", "-q", name)],
                [("rmi", name), ("pull", "-q", name)],
                [("run", "--rm", "--network", "none", name, "true")],
                [("run", "-d", "--network", "none", name, "sh", "-c", "dd if=/dev/zero of=/data bs=64k count=16; sleep 60")],
                [("create", "--network", "none", name, "true")],
                [("create", "--name", "brief", "--network", "none", name, "true"), ("rm", "brief")],
            ]):  # fmt: skip
                self.rl(*command, check=False)

    def final(self):
        """Everything is removed: nothing may be left of what power cuts interrupted."""
        if containers := self.rl("ps", "-a", "-q").split():
            self.rl("rm", "-f", "-t", "0", *containers)
        if images := self.rl("images", "-q").split():
            self.rl("rmi", "-f", *images)
        for path in ("containers", "layers", "content/blobs/sha256", "content/partial", "images", "names", "trash"):
            left = [entry.name for entry in (DATA / path).glob("*")] + [e.name for e in (DATA / path).glob(".*[!k]")]
            left = [name for name in left if not name.endswith(".lock") and name != "blobs"]
            if left:
                self.problems.append(f"left in {path}: {left[:5]}")


def main():
    port = system()
    if os.fork() == 0:
        Path("/sys/fs/cgroup/lab/cgroup.procs").write_text(str(os.getpid()))
        os.setgroups([])
        os.setresgid(UID, UID, UID)
        os.setresuid(UID, UID, UID)
        request = json.loads(os.read(port, 65536).decode().strip().splitlines()[-1])
        user = User(port, request["seed"], request["number"])
        try:
            begin = time.monotonic()
            user.install()
            found = user.check()
            if request["final"]:
                user.final()
            user.send({"problems": user.problems, "seconds": round(time.monotonic() - begin, 1), **found})
            if not request["final"]:
                threading.Thread(target=user.work, daemon=True).start()
                user.work()
        except BaseException as error:
            user.send({"problems": [*user.problems, f"plug.py: {type(error).__name__}: {error}"]})
        while True:
            time.sleep(60)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            time.sleep(1)


if __name__ == "__main__":
    sys.exit(main())
