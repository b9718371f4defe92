"""Rows about images: pull, push, build, long lists."""

from __future__ import annotations

import json
import shutil
import statistics
import time
from pathlib import Path

from benchmarks.harness import Bench, peak_memory


def _registry_tools(name: str) -> bool:
    """Whether the row *name* can be measured here; says so if not."""
    found = bool(shutil.which("docker-registry") and shutil.which("skopeo"))
    if not found:
        print(f"  {name}: skipped, docker-registry and skopeo are not installed")
    return found


def pull(bench: Bench) -> None:
    name = "pull, 10 layers, 500 MB, 20 000 files"
    if not bench.wanted(name) or not _registry_tools(name):
        return
    port = bench.start_registry()
    image = f"127.0.0.1:{port}/big:latest"
    archive = big_image(bench.work)
    bench.quiet(["skopeo", "copy", "--quiet", "--dest-tls-verify=false", f"docker-archive:{archive}", f"docker://{image}"])
    archive.unlink()
    figures: dict[str, list[float]] = {"rl": [], "podman": []}
    peak = 0.0
    for _ in range(3):
        for label, tool in (("rl", bench.rl), ("podman", bench.podman)):
            before = time.perf_counter()
            peak_now = peak_memory([*tool, "pull", "-q", "--tls-verify=false", image])
            figures[label].append((time.perf_counter() - before) * 1000)
            if label == "rl":
                peak = max(peak, peak_now)
            bench.quiet([*tool, "rmi", "-f", image])
    bench.row(name, "ms", statistics.median(figures["rl"]), statistics.median(figures["podman"]), 0.7)
    bench.row("pull, peak memory of one process", "MB", peak, None, None)
    bench.rows[-1]["limit"] = 120


def push(bench: Bench) -> None:
    """The big image to a repository that has none of it; Skopeo copies it from a directory, beside them."""
    name = "push, 10 layers, 500 MB, 20 000 files"
    if not bench.wanted(name) or not bench.has("push") or not _registry_tools(name):
        return
    port = bench.start_registry()
    archive = big_image(bench.work)
    for tool in (bench.rl, bench.podman):
        bench.quiet([*tool, "load", "-q", "-i", str(archive)])
    figures: dict[str, list[float]] = {"rl": [], "podman": [], "skopeo": []}
    for number in range(3):
        for label, words in (
            ("rl", [*bench.rl, "push", "-q", "--tls-verify=false", "big"]),
            ("podman", [*bench.podman, "push", "-q", "--tls-verify=false", "big"]),
            ("skopeo", ["skopeo", "copy", "-q", "--dest-tls-verify=false", f"docker-archive:{archive}"]),
        ):
            # a registry's storage of its own for each, so that nothing is there to be skipped or mounted
            figures[label].append(bench.timed([*words, f"docker://127.0.0.1:{port}/{label}{number}/big"]))
            shutil.rmtree(bench.work / "registry")
    rl, podman, skopeo = (statistics.median(figures[label]) for label in ("rl", "podman", "skopeo"))
    bench.row(name, "ms", rl, podman, 1.0)
    bench.row(f"{name}, beside skopeo", "ms", rl, skopeo, 1.0)
    for tool in (bench.rl, bench.podman):
        bench.quiet([*tool, "rmi", "-f", "big"])


def build(bench: Bench) -> None:
    """20 instructions, half of them RUN or COPY: nothing in the cache, and all of it."""
    names = ("build, 20 instructions, cold", "build, 20 instructions, cached")
    if not any(bench.wanted(name) for name in names) or not bench.has("build"):
        return
    context = bench.work / "context"
    (context / "files").mkdir(parents=True)
    for number in range(200):
        (context / f"files/{number}").write_text(f"{number}\n" * 500)
    lines = ["FROM bench"]
    for number in range(5):
        lines += [f"COPY files /files{number}/", f"RUN echo {number} > /made{number}"]
        lines += [f"ENV N{number}={number}", *([f"LABEL l{number}={number}"] if number else [])]
    (context / "Containerfile").write_text("\n".join(lines) + "\n")
    bench.pair(names[0], 0.7, ["build", "-q", "--no-cache", "-t", "built", str(context)], max(3, bench.options.runs // 2))
    for tool in (bench.rl, bench.podman):
        bench.quiet([*tool, "build", "-q", "-t", "built", str(context)])
    bench.pair(names[1], 0.7, ["build", "-q", "-t", "built", str(context)])
    for tool in (bench.rl, bench.podman):
        bench.quiet([*tool, "rmi", "-f", "built"])


def many(bench: Bench, number: int = 500) -> None:
    """`images` where there are many of them."""
    name = f"images, {number} images"
    if not bench.wanted(name):
        return
    for index in range(number):
        for tool in (bench.rl, bench.podman):
            bench.quiet([*tool, "import", "-q", "-c", f"LABEL n={index}", str(bench.work / "root.tar"), f"many:{index}"])
    bench.pair(name, 0.8, ["images"])
    for tool in (bench.rl, bench.podman):
        bench.quiet([*tool, "rmi", "-f", *(f"many:{index}" for index in range(number))])


def big_image(work: Path) -> Path:
    """A docker-archive of 10 layers, 20 000 files, 500 MB that compress by about a half."""
    import hashlib
    import io
    import random
    import tarfile

    noise = random.Random(1)
    layers, diff_ids = [], []
    for number in range(10):
        path = work / f"layer{number}.tar"
        with tarfile.open(path, "w") as tar:
            for index in range(2000):
                half = noise.randbytes(12800)
                data = half + b"x" * 12800
                member = tarfile.TarInfo(f"data/{number}/{index % 50}/file{index}")
                member.size, member.mode = len(data), 0o644
                tar.addfile(member, io.BytesIO(data))
        diff_ids.append(f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}")
        layers.append(path)
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["true"]},
                         "rootfs": {"type": "layers", "diff_ids": diff_ids}, "history": []}).encode()
    archive = work / "big.tar"
    with tarfile.open(archive, "w") as tar:
        for path in layers:
            tar.add(path, path.name)
            path.unlink()
        manifest = json.dumps([{"Config": "config.json", "RepoTags": ["big:latest"], "Layers": [p.name for p in layers]}]).encode()
        for name, data in (("config.json", config), ("manifest.json", manifest)):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return archive
