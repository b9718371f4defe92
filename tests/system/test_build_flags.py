"""`rl build`: flags that change the image itself or what RUN sees; and some of rl images, rmi and save."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import users
from system.conftest import Rl, unique_user


@pytest.fixture(scope="module")
def rl(busybox_archive: Path) -> Iterator[Rl]:
    tool = Rl(unique_user("rltest-buildflags"))
    tool.ok("load", "-q", "-i", busybox_archive)
    yield tool
    users.wipe(tool.user)


def _image(rl: Rl, text: str, *flags: str) -> dict[str, Any]:
    """The image's document, as `rl image inspect` shows it."""
    found = rl.ok("build", "-q", *flags, "-", input=text)
    return dict(json.loads(rl.ok("image", "inspect", found))[0])


def test_names_and_labels(rl: Rl) -> None:
    given = rl.user.home / "arguments"
    given.write_text("# values\nONE=1\nTWO=2 words\n")
    text = "FROM busybox\nARG ONE\nARG TWO\nENV FIRST=$ONE SECOND=$TWO\nLABEL a=1 b=2\n"
    image = _image(rl, text, "--build-arg-file", "arguments", "--build-arg", "ONE=other", "--unsetlabel", "a", "--unsetenv", "SECOND")
    assert image["Labels"] == {"b": "2"} and "FIRST=other" in image["Config"]["Env"]
    assert not [word for word in image["Config"]["Env"] if word.startswith("SECOND")]
    features = _image(rl, text, "--os-feature", "win32k", "--os-version", "10.0")
    document = json.loads(_config(rl, features["Id"]))
    assert (document["os.features"], document["os.version"]) == (["win32k"], "10.0")


def _config(rl: Rl, image: str) -> str:
    place = rl.user.home / "config"
    shutil.rmtree(place, ignore_errors=True)
    rl.ok("save", "-q", "--format", "oci-dir", "-o", place, image)
    return (place / "blobs/sha256" / image).read_text()


def test_history_and_times(rl: Rl) -> None:
    text = "FROM busybox\nRUN echo x > /x\n"
    assert not json.loads(_config(rl, _image(rl, text, "--omit-history")["Id"])).get("history")
    image = _image(rl, text, "--no-cache", "--source-date-epoch", "1000000000")
    assert image["Created"].startswith("2001-09-09T01:46:40")


def test_what_changes_nothing(rl: Rl) -> None:
    """Flags that are there for the scripts of others: the same image."""
    text = "FROM busybox\nRUN echo same > /same\n"
    plain = _image(rl, text)["Id"]
    for flag in ("--force-rm", "--rm", "--disable-compression", "-D", "--identity-label=false", "--compress", "--disable-content-trust"):
        assert _image(rl, text, flag)["Id"] == plain, flag
    for flag, said in (("--identity-label", "adds no label"), ("--disable-compression=false", "plain")):
        done = rl("build", "-q", flag, "-", input=text)
        assert done.returncode == 125 and said in done.stderr


def test_what_run_sees(rl: Rl) -> None:
    flags = ["--dns", "192.0.2.7", "--dns-option", "ndots:3", "--dns-search", "example.org", "--no-cache"]
    output = rl.ok("build", *flags, "-", input="FROM busybox\nRUN cat /etc/resolv.conf\n")
    assert "nameserver 192.0.2.7" in output and "options ndots:3" in output and "search example.org" in output
    context = rl.user.home / "stdin"
    context.mkdir(exist_ok=True)
    (context / "Containerfile").write_text("FROM busybox\nRUN wc -c\n")
    assert "\n5\n" in rl.ok("build", "--no-cache", "--stdin", context, input="12345")
    assert "\n0\n" in rl.ok("build", "--no-cache", context, input="12345")


def test_images_shows_digests_and_former_names(rl: Rl) -> None:
    rl.ok("tag", "busybox", "former")
    rl.ok("untag", "former", "former")
    rl.ok("tag", "busybox", "later")
    table = rl.ok("images", "--digests", "--history", "later").splitlines()
    assert "DIGEST" in table[0] and "HISTORY" in table[0] and "sha256:" in table[1] and "localhost/later:latest" in table[1]
    rl.ok("untag", "busybox", "later")


def test_rmi_keeps_parents_where_told(rl: Rl) -> None:
    parent = rl.ok("build", "-q", "-", input="FROM busybox\nRUN echo parent > /p\n")
    for flags, left in (([], False), (["--no-prune"], True)):
        again = rl.ok("build", "-q", "-", input="FROM busybox\nRUN echo parent > /p\n")
        assert again == parent
        rl.ok("build", "-q", "-t", "child", "-", input="FROM busybox\nRUN echo parent > /p\nRUN echo child > /c\n")
        rl.ok("rmi", *flags, "child")
        assert (parent in rl.ok("images", "-a", "-q", "--no-trunc").replace("sha256:", "").split()) is left, flags


def test_saved_without_compression(rl: Rl) -> None:
    kinds = []
    for flags in ([], ["--uncompressed"]):
        place = rl.user.home / "saved"
        shutil.rmtree(place, ignore_errors=True)
        rl.ok("save", "-q", "--format", "oci-dir", *flags, "-o", place, "busybox")
        index = json.loads((place / "index.json").read_text())
        manifest = json.loads((place / "blobs/sha256" / index["manifests"][0]["digest"][7:]).read_text())
        kinds.append(manifest["layers"][0]["mediaType"].rpartition(".")[2])
    assert kinds == ["tar+gzip", "tar"]


#: (flags, what RUN does, a line of its output)
RUNS = [
    (["--cap-add", "NET_ADMIN"], "grep CapEff /proc/self/status", "15fb"),
    (["--security-opt", "no-new-privileges"], "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1"),
    (["--security-opt", "seccomp=unconfined"], "grep Seccomp: /proc/self/status", "Seccomp:\t0"),
    (["--shm-size", "3m"], "df -k /dev/shm | tail -1", "3072"),
    (["--device", "/dev/null:/dev/nichts"], "ls -l /dev/nichts", "1,   3"),
    (["--pid", "host"], "ls -d /proc/$$ && test $$ -gt 2 && echo far", "far"),
    (["--ipc", "host"], "ls -L -i /proc/self/ns/ipc", "{ipc}"),
    (["--uts", "host"], "hostname", "{hostname}"),
    (["--cgroupns", "host"], "ls -L -i /proc/self/ns/cgroup", "{cgroup}"),
    (["--no-hosts"], "test -s /etc/hosts || echo none of ours", "none of ours"),
    (["--no-hostname"], "test -s /etc/hostname || echo none of ours", "none of ours"),
    (["--dns", "none"], "test -s /etc/resolv.conf || echo none of ours", "none of ours"),
    (["--ulimit", "nofile=99:99"], "ulimit -n", "99"),
    (["-v", "/etc:/host:ro"], "ls /host/passwd && ! touch /host/x && echo read-only", "read-only"),
]


@pytest.mark.parametrize(("flags", "command", "line"), RUNS, ids=lambda value: value[0] + value[-1][:8] if isinstance(value, list) else "")
def test_run_in_a_container_of_that_shape(rl: Rl, flags: list[str], command: str, line: str) -> None:
    words = {name: str(Path(f"/proc/self/ns/{name}").stat().st_ino) for name in ("ipc", "cgroup")}
    wanted = line.format(hostname=os.uname().nodename, **words)
    output = rl.ok("build", "--no-cache", *flags, "-", input=f"FROM busybox\nRUN {command}\n")
    assert wanted in output.partition("STEP 2/2")[2].partition("\n")[2], output
    plain = rl.ok("build", "--no-cache", "-", input=f"FROM busybox\nRUN {command} || true\n")
    assert wanted not in plain.partition("STEP 2/2")[2].partition("\n")[2], "only with the flag"


def test_limits_are_taken_or_told(rl: Rl) -> None:
    """Where no cgroup can be had, as here, a limit is a warning, as with rl run; a wrong one is an error."""
    limits = ["--cpu-period", "100000", "--cpu-quota", "50000", "-c", "512", "--cpuset-cpus", "0", "--cpuset-mems", "0",
              "-m", "200m", "--memory-swap", "300m"]  # fmt: skip
    text = "FROM busybox\nRUN grep Cpus_allowed_list /proc/self/status\nRUN true\n"
    output = rl.ok("build", "--no-cache", *limits, "-", input=text)
    assert "Cpus_allowed_list:\t0\n" in output and output.count("[Warning] resource limits are not enforced") == 1
    done = rl("--limits", "strict", "build", "--no-cache", *limits, "-", input=text)
    assert done.returncode == 125 and "resource limits are not enforced" in done.stderr and "hint: " in done.stderr
    for flags, says in ((["--cpu-shares", "-1"], "cpu-shares"), (["--cpuset-cpus", "x"], "cpuset"), (["--memory-swap", "1m", "-m", "2m"], "memory"),
                        (["--cgroup-parent", "/no/such/../x"], "cgroup")):
        done = rl("build", "-q", *flags, "-", input="FROM busybox\nRUN true\n")
        assert done.returncode == 125 and says in done.stderr, done.stderr


def test_proxies_and_groups(rl: Rl) -> None:
    text = "FROM busybox\nRUN echo proxy=$http_proxy\n"
    proxy = {"http_proxy": "http://proxy.example:3128"}
    assert "proxy=http://proxy.example:3128" in rl.ok("build", "--no-cache", "-", input=text, env=proxy)
    assert "\nproxy=\n" in rl.ok("build", "--no-cache", "--http-proxy=false", "-", input=text, env=proxy)
    assert "4711" in rl.ok("build", "--no-cache", "--group-add", "4711", "-", input="FROM busybox\nRUN id -G\n")


def test_an_image_of_another_machine(rl: Rl) -> None:
    rl.ok("build", "-q", "--arch", "arm", "--variant", "v7", "--os", "linux", "-t", "other", "-", input="FROM scratch\nLABEL a=b\n")
    document = json.loads(_config(rl, rl.ok("image", "inspect", "--format", "{{.Id}}", "other")))
    assert (document["architecture"], document["variant"], document["os"]) == ("arm", "v7", "linux")
    tar = rl.user.home / "empty.tar"
    with tarfile.open(tar, "w"):
        pass
    found = rl.ok("import", "-q", "--arch", "arm", "--variant", "v6", "--os", "linux", "-m", "a message", tar, "imported")
    document = json.loads(_config(rl, found.removeprefix("sha256:")))
    assert (document["architecture"], document["variant"], document["history"][0]["comment"]) == ("arm", "v6", "a message")
    assert rl.ok("images", "--sort", "tag", "-q", "imported") and rl.ok("rmi", "--ignore", "nosuch", "imported")


def test_retries(rl: Rl) -> None:
    done = rl("build", "-q", "--retry", "1", "--retry-delay", "10ms", "-", input="FROM 127.0.0.1:1/none\n")
    assert done.returncode == 125 and "127.0.0.1:1" in done.stderr
    done = rl("pull", "-q", "--retry", "1", "--retry-delay", "10ms", "127.0.0.1:1/none")
    assert done.returncode == 125 and "127.0.0.1:1" in done.stderr


def test_saved_with_compression(rl: Rl) -> None:
    kinds = []
    for flags in ([], ["--compress"]):
        place = rl.user.home / "compressed"
        shutil.rmtree(place, ignore_errors=True)
        rl.ok("save", "-q", "--format", "docker-dir", *flags, "-o", place, "busybox")
        kinds.append(json.loads((place / "manifest.json").read_text())["layers"][0]["mediaType"].rpartition(".")[2])
    assert kinds == ["tar", "gzip"]
