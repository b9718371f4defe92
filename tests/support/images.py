"""Real images for the tests: Debian root file systems made by mmdebstrap, and a small one of busybox.

Made once per machine in $RL_TEST_CACHE/images, as docker-archives that skopeo pushes to a registry; a
change of a recipe makes a new one.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

CACHE = Path(os.environ.get("RL_TEST_CACHE", "/var/cache/rl-test"))

_POSTGRES_START = """#!/bin/sh
set -e
bin=$(echo /usr/lib/postgresql/*/bin)
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    "$bin/initdb" -D "$PGDATA" -U postgres --auth=trust >/dev/null
    echo "host all all all trust" >> "$PGDATA/pg_hba.conf"
fi
exec "$bin/postgres" -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/tmp
"""

#: name → packages, shell commands run in the root ($1), the image's configuration
RECIPES: dict[str, dict[str, Any]] = {
    "nginx": {
        "packages": ["nginx-light"],
        "hooks": [
            'ln -sf /dev/stdout "$1/var/log/nginx/access.log"',
            'ln -sf /dev/stderr "$1/var/log/nginx/error.log"',
        ],
        "config": {"Cmd": ["nginx", "-g", "daemon off;"], "ExposedPorts": {"80/tcp": {}}, "StopSignal": "SIGQUIT"},
    },
    "postgres": {
        "packages": ["postgresql"],
        "hooks": [
            'mkdir -p "$1/var/lib/postgresql/data"',
            'chroot "$1" chown postgres:postgres /var/lib/postgresql/data',
            'chmod 700 "$1/var/lib/postgresql/data"',
            'cp "$RL_START" "$1/usr/local/bin/start-postgres"; chmod 755 "$1/usr/local/bin/start-postgres"',
        ],
        "start": _POSTGRES_START,
        "config": {
            "Entrypoint": ["start-postgres"],
            "User": "postgres",
            "Env": ["PGDATA=/var/lib/postgresql/data"],
            "Volumes": {"/var/lib/postgresql/data": {}},
            "ExposedPorts": {"5432/tcp": {}},
            "StopSignal": "SIGINT",
        },
    },
    "python": {
        "packages": ["python3-minimal", "iproute2"],
        "hooks": [],
        "config": {"Cmd": ["python3"], "WorkingDir": "/srv", "Env": ["LANG=C.UTF-8"]},
    },
    "gcc": {"packages": ["gcc", "libc6-dev"], "hooks": [], "config": {"Cmd": ["gcc", "--version"]}},
}


def debian(name: str) -> Path:
    """The docker-archive of recipe *name*, made now if this machine has none."""
    recipe = RECIPES[name]
    stamp = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]
    archive = CACHE / "images" / f"{name}-{stamp}.tar"
    if archive.exists():
        return archive
    archive.parent.mkdir(parents=True, exist_ok=True)
    work = archive.parent / f".{name}-{os.getpid()}"
    work.mkdir()
    try:
        start = work / "start"
        start.write_text(recipe.get("start", ""))
        command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(recipe['packages'])}"]
        command += ["--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/locale/*"]
        command += [f"--customize-hook={hook}" for hook in recipe["hooks"]]
        layer = work / "layer.tar"
        subprocess.run(
            [*command, "bookworm", str(layer)], check=True, capture_output=True, env={**os.environ, "RL_START": str(start)}
        )
        archive_of(work / "archive.tar", [layer], recipe["config"], f"{name}:latest")
        (work / "archive.tar").rename(archive)
    finally:
        shutil.rmtree(work)
    return archive


def busybox_layer(path: Path) -> Path:
    """A root file system of the machine's static busybox as a tar file at *path*."""
    binary = Path(shutil.which("busybox") or "/bin/busybox").read_bytes()
    applets = subprocess.run(["busybox", "--list"], capture_output=True, text=True, check=True).stdout.split()
    with tarfile.open(path, "w") as tar:
        for directory in ("bin", "etc", "tmp", "root", "home", "home/app"):
            add(tar, directory, kind=tarfile.DIRTYPE, mode=0o1777 if directory == "tmp" else 0o755,
                uid=1000 if directory == "home/app" else 0)
        add(tar, "bin/busybox", binary, mode=0o755)
        for applet in applets:
            if applet != "busybox":
                add(tar, f"bin/{applet}", kind=tarfile.SYMTYPE, link="busybox")
        add(tar, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n")
        add(tar, "etc/group", b"root:x:0:\napp:x:1000:\nextra:x:2000:app\n")
        add(tar, "etc/not-executable", b"data\n")
    return path


def add(
    tar: tarfile.TarFile, name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, mode: int = 0o644, uid: int = 0,
    link: str = "",
) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.uid, member.gid, member.linkname = kind, mode, uid, uid, link
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def archive_of(path: Path, layers: list[Path], config: dict[str, Any], tag: str, architecture: str = "amd64") -> Path:
    """A docker-archive of uncompressed *layers* (base first) at *path*."""
    names = [f"layer{number}.tar" for number in range(len(layers))]
    diff_ids = []
    for layer in layers:
        with open(layer, "rb") as file:
            digest = hashlib.sha256()
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        diff_ids.append(f"sha256:{digest.hexdigest()}")
    document = json.dumps({
        "architecture": architecture, "os": "linux", "created": "2026-01-01T00:00:00Z", "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created": "2026-01-01T00:00:00Z", "created_by": f"layer {number}"} for number in range(len(layers))],
    }).encode()
    with tarfile.open(path, "w") as tar:
        for name, layer in zip(names, layers, strict=True):
            tar.add(layer, name)
        add(tar, "config.json", document)
        add(tar, "manifest.json", json.dumps([{"Config": "config.json", "RepoTags": [tag], "Layers": names}]).encode())
    return path


def busybox(directory: Path, config: dict[str, Any] | None = None, tag: str = "busybox:latest") -> Path:
    """A docker-archive of the busybox image in *directory*."""
    layer = busybox_layer(directory / "busybox-layer.tar")
    return archive_of(directory / "busybox.tar", [layer], config or {"Cmd": ["sh"]}, tag)
