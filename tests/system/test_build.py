"""`rl build`: contexts, the cache, stages side by side, mounts of RUN, outputs; what goes wrong, and what it leaves."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from support import users
from support.console import Console
from support.registry import Registry
from system.conftest import Rl, unique_user


@pytest.fixture(scope="module")
def rl(busybox_archive: Path) -> Iterator[Rl]:
    tool = Rl(unique_user("rltest-builds"))
    tool.ok("load", "-q", "-i", busybox_archive)
    yield tool
    users.wipe(tool.user)


@pytest.fixture
def context(rl: Rl) -> Path:
    directory = rl.user.home / "context"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    (directory / "one.txt").write_text("one\n")
    (directory / "d").mkdir()
    (directory / "d/a").write_text("a\n")
    os.chown(directory, rl.user.uid, rl.user.gid)
    return directory


def _file(context: Path, text: str) -> Path:
    (context / "Containerfile").write_text(text)
    return context


def _ids(rl: Rl) -> list[str]:
    return rl.ok("images", "-q", "-a", "--no-trunc").split()


def _left(rl: Rl) -> list[str]:
    work = rl.user.home / ".local/share/rl/build/work"
    return sorted(os.listdir(work)) if work.exists() else []


# ---- the cache

def test_a_cached_build_is_the_same_image_and_mounts_nothing(rl: Rl, context: Path) -> None:
    _file(context, "FROM busybox\nENV A=1\nCOPY one.txt /f\nRUN echo $A >> /f; date > /when\nWORKDIR /w\nCMD [\"x\"]\n")
    first = rl.ok("build", "-q", "-t", "cached", context)
    os.utime(context / "one.txt", (1, 1))  # times do not count
    done = rl.user.run("strace", "-f", "-qq", "-e", "trace=mount,move_mount,unshare,setns,clone,clone3,fork,vfork", "-o", "trace", "rl", "build", "-t", "again", context) \
        if shutil.which("strace") else None
    assert rl.ok("build", "-q", context) == first
    if done is not None:
        assert done.returncode == 0 and done.stdout.count("Using cache") == 5 and (rl.user.home / "trace").read_text() == ""
    assert rl.ok("build", "-q", "--no-cache", context) != first
    (context / "one.txt").write_text("two\n")
    other = rl.ok("build", "-q", context)
    assert other != first and rl.ok("run", "--rm", other, "cat", "/f") == "two\n1"


def test_a_cache_is_shared_by_stages_and_targets(rl: Rl, context: Path) -> None:
    text = "FROM busybox AS base\nRUN cat /proc/sys/kernel/random/uuid > /base\nFROM base AS one\nCOPY one.txt /one\nFROM base\nCOPY --from=one /one /base /got/\n"
    _file(context, text)
    one = rl.ok("build", "-q", "--target", "one", context)
    whole = rl.ok("build", "-q", context)
    assert rl.ok("run", "--rm", one, "cat", "/base") == rl.ok("run", "--rm", whole, "cat", "/got/base")
    # The same files by another way: the copy of them is known by their content.
    _file(context, text.replace("COPY one.txt /one", "RUN echo one > /one"))
    output = rl.ok("build", "--progress", "plain", context)
    assert output.count("Using cache") == 2 and rl.ok("run", "--rm", rl.ok("build", "-q", context), "cat", "/got/one") == "one"


def test_a_lost_snapshot_is_made_again(rl: Rl, context: Path) -> None:
    _file(context, "FROM busybox AS a\nRUN echo lost > /lost\nRUN echo child > /child\nFROM scratch\nCOPY --from=a /lost /\n")
    rl.ok("build", "-q", context)
    shutil.rmtree(rl.user.home / ".local/share/rl/build/snapshots")
    (rl.user.home / ".local/share/rl/build/cache" / ("0" * 64)).write_text("{broken")
    rl.ok("build", "-q", context)


def test_a_cache_in_a_registry(rl: Rl, context: Path, registry: Registry) -> None:
    """A machine that begins with nothing takes the steps, in all stages, from where another one has put them."""
    _file(context, "FROM busybox AS a\nRUN cat /proc/sys/kernel/random/uuid > /u && chown 5:6 /u\nFROM busybox\nENV A=1\nCOPY --from=a /u /u\nRUN echo $A > /a\n")
    where = f"{registry.host}/cache/of-builds"
    first = rl.ok("build", "-q", "--cache-to", where, context)
    shown = rl.ok("run", "--rm", first, "cat", "/u", "/a")
    rl.ok("image", "prune", "--force", "--build-cache")
    assert not os.listdir(rl.data / "build/snapshots") and rl("image", "exists", first).returncode == 1
    again = rl.ok("build", "--progress", "plain", "--cache-from", f"{registry.host}/cache/nothing", "--cache-from", where, context)
    assert again.count("Using cache") == 3 and rl.ok("run", "--rm", again.splitlines()[-1], "cat", "/u", "/a") == shown
    rl.ok("system", "check")
    rl.ok("push", "-q", again.splitlines()[-1], f"{registry.host}/from-cache:1")
    rl.ok("rmi", again.splitlines()[-1])
    failing = rl("build", "-q", "--no-cache", "--cache-from", "127.0.0.1:1/x", context)
    assert failing.returncode == 0
    unreachable = rl("build", "--cache-from", "127.0.0.1:1/x", _file(context, "FROM busybox\nRUN echo other > /o\n"))
    assert unreachable.returncode == 0 and "127.0.0.1:1" in unreachable.stdout


def test_prune_forgets_and_reset_erases(rl: Rl, context: Path) -> None:
    _file(context, "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /d\nRUN --mount=type=cache,target=/c echo x > /c/x\n")
    image = rl.ok("build", "-q", context)
    assert [row["Type"] for row in json.loads(rl.ok("system", "df", "--format", "json"))][-1] == "Build Cache"
    rl.ok("image", "prune", "--force", "--build-cache")
    assert rl.ok("build", "-q", context) != image
    build = rl.user.home / ".local/share/rl/build"
    assert os.listdir(build / "cache") and os.listdir(build / "caches")
    assert rl("system", "check").returncode == 0


@pytest.mark.parametrize("driver", ["", "copy"])
def test_in_every_lane(lane: Rl, driver: str) -> None:
    """Real root, one id alone, other network helpers, other storage drivers: the same files."""
    if driver and lane.lane != "user":
        pytest.skip("the copy driver is the same everywhere")
    flags = ["--storage-driver", driver] if driver else []
    text = """FROM busybox AS a
RUN mkdir -p /d/x && echo a > /d/x/f && touch /gone && ln /d/x/f /d/hard
FROM busybox
RUN echo b > /b; rm -r /home/app; mkdir /home/app; echo n > /home/app/n
COPY --from=a --chown=5:6 /d /d
WORKDIR /w
RUN rm /d/hard && echo x > /w/x
"""
    shown = "cat /b /d/x/f /w/x; ls /home/app /d; stat -c %u:%g /d/x/f"
    owner = "0:0" if lane.lane == "single" else "5:6"
    for words in ([], ["--squash"], ["--squash-all"], ["--timestamp", "1000"]):
        image = lane.ok(*flags, "build", "-q", *words, "-", input=text)
        found = lane.ok(*flags, "run", "--rm", "--network", "none", image, "sh", "-c", shown).split()
        assert found == ["b", "a", "x", "/d:", "x", "/home/app:", "n", owner], words
    checked = lane(*flags, "system", "check")
    assert checked.returncode == 0, checked.stdout + checked.stderr


# ---- contexts

def test_contexts_from_elsewhere(rl: Rl, context: Path) -> None:
    _file(context, "FROM busybox\nCOPY one.txt /f\n")
    wanted = rl.ok("build", "-q", context)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        tar.add(context, ".")
    (rl.user.home / "context.tar.gz").write_bytes(archive.getvalue())
    assert rl.ok("build", "-q", "context.tar.gz") == wanted
    piped = rl.user.popen("sh", "-c", "rl build -q - < context.tar.gz", stdout=subprocess.PIPE)
    assert piped.communicate(timeout=60)[0].decode().strip() == wanted
    assert rl.ok("build", "-q", "-f", "-", context, input="FROM busybox\nCOPY one.txt /f\n") == wanted
    alone = rl.ok("build", "-q", "-", input="FROM busybox\nRUN echo alone > /f\n")
    assert rl.ok("run", "--rm", alone, "cat", "/f") == "alone"
    (context / "other").write_text("FROM busybox\nRUN echo other > /f\n")
    assert rl.ok("run", "--rm", rl.ok("build", "-q", "-f", "other", context), "cat", "/f") == "other"
    empty = rl("build", "-q", "-", input="")
    assert empty.returncode == 125 and "is empty" in empty.stderr


class _Files(BaseHTTPRequestHandler):
    files: dict[str, bytes] = {}

    def do_GET(self) -> None:
        data = self.files.get(self.path)
        self.send_response(200 if data is not None else 404)
        self.send_header("Content-Length", str(len(data or b"")))
        self.send_header("Last-Modified", "Sun, 02 Feb 2020 02:02:02 GMT")
        self.end_headers()
        self.wfile.write(data or b"")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Files)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()


def test_urls(rl: Rl, context: Path, web: str) -> None:
    _Files.files = {"/dir/file.bin": b"from the web\n", "/Containerfile": b"FROM busybox\nRUN echo remote > /f\n"}
    digest = hashlib.sha256(b"from the web\n").hexdigest()
    _file(context, f"FROM busybox\nADD {web}/dir/file.bin /x/\nADD --checksum=sha256:{digest} --chmod=644 {web}/dir/file.bin /y\n")
    image = rl.ok("build", "-q", context)
    assert rl.ok("run", "--rm", image, "sh", "-c", "cat /x/file.bin; stat -c '%a %Y' /x/file.bin /y") == "from the web\n600 1580608922\n644 1580608922"
    assert rl.ok("run", "--rm", rl.ok("build", "-q", f"{web}/Containerfile"), "cat", "/f") == "remote"
    for words, said in ((f"ADD {web}/none /x", "answers 404"), (f"ADD --checksum=sha256:{'0' * 64} {web}/dir/file.bin /x", "has the digest"),
                        (f"ADD --checksum=nonsense {web}/dir/file.bin /x", "not a digest"), ("ADD http://127.0.0.1:1/x /x", "Connection refused")):
        done = rl("build", _file(context, f"FROM busybox\n{words}\n"))
        assert done.returncode == 125 and said in done.stderr, done.stderr


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_git(rl: Rl, context: Path) -> None:
    repository = rl.user.home / "repository.git"
    shutil.rmtree(repository, ignore_errors=True)
    (context / "sub").mkdir()
    (context / "sub/Containerfile").write_text("FROM busybox\nCOPY in.txt /f\n")
    (context / "sub/in.txt").write_text("first\n")
    subprocess.run(["chown", "-R", f"{rl.user.uid}:{rl.user.gid}", context], check=True)
    git = ["git", "-C", context, "-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "1"], ["tag", "v1"]):
        assert rl.user.run(*git, *words).returncode == 0
    (context / "sub/in.txt").write_text("second\n")
    assert rl.user.run(*git, "commit", "-qam", "2").returncode == 0
    assert rl.user.run("git", "clone", "-q", "--bare", context, repository).returncode == 0
    for fragment, content in (("#v1:sub", "first"), ("#main:sub", "second")):
        image = rl.ok("build", "-q", f"file://{repository}{fragment}")
        assert rl.ok("run", "--rm", image, "cat", "/f") == content
    _file(context, f"FROM busybox\nADD file://{repository}#v1 /src/\n")
    assert rl.ok("run", "--rm", rl.ok("build", "-q", context), "sh", "-c", "cat /src/sub/in.txt; ls -A /src").split() == ["first", "d", "one.txt", "sub"]
    for fragment, said in (("#nosuch", "nosuch"), ("#v1:../..", "leads out"), ("#v1:none", "no directory none"), ("#--upload-pack=x", "not the name")):
        done = rl("build", f"file://{repository}{fragment}")
        assert done.returncode == 125 and said in done.stderr, done.stderr


def test_named_contexts(rl: Rl, context: Path) -> None:
    other = rl.user.home / "other"
    other.mkdir(exist_ok=True)
    (other / "o.txt").write_text("other\n")
    _file(context, "FROM base\nCOPY --from=more o.txt /o\nRUN --mount=type=bind,from=more,target=/m cat /m/o.txt > /p\n")
    flags = ["--build-context", f"more={other}", "--build-context", "base=docker-image://busybox"]
    assert rl.ok("run", "--rm", rl.ok("build", "-q", *flags, context), "cat", "/o", "/p") == "other\nother"
    (other / "o.txt").write_text("changed\n")
    assert rl.ok("run", "--rm", rl.ok("build", "-q", *flags, context), "cat", "/o", "/p") == "changed\nchanged"


# ---- what files may not do

def test_nothing_leads_out_of_a_context_or_a_root(rl: Rl, context: Path) -> None:
    (context / "out").symlink_to("/etc/passwd")
    (context / "up").symlink_to("../../../../../../etc")
    (context / "inside").symlink_to("/one.txt")
    for source in ("out", "up/passwd", "../other", "/etc/hostname"):
        done = rl("build", "-q", _file(context, f"FROM busybox\nCOPY {source} /x\n"))
        assert done.returncode == 125 and "not found in the build context" in done.stderr and "Containerfile:2:6" in done.stderr, done.stderr
    image = rl.ok("build", "-q", _file(context, "FROM busybox\nRUN ln -s /../../../tmp/escaped /ln && ln -s / /d\nCOPY one.txt /ln\nCOPY inside /d/d/d/e\nCOPY up /kept/up\n".replace("COPY up /kept/up\n", "COPY . /all/\n")))
    assert not Path("/tmp/escaped").exists()
    assert rl.ok("run", "--rm", image, "sh", "-c", "cat /ln /e; readlink /all/out") == "one\none\n/etc/passwd"


def test_links_in_circles_and_users_that_are_not_there_yet(rl: Rl, context: Path) -> None:
    (context / "d/loop").symlink_to("..")
    (context / "d/again").symlink_to("../d")
    image = rl.ok("build", "-q", _file(context, "FROM busybox\nUSER later\nWORKDIR /w/x\nCOPY **/a .\n"))
    assert rl.ok("run", "--rm", "--user", "0", image, "sh", "-c", "cat /w/x/a; ls /w/x; stat -c %u /w/x").split() == ["a", "a", "0"]


def test_a_file_that_changes_meanwhile_is_an_error_or_whole(rl: Rl, context: Path) -> None:
    """What goes into the image is what the cache's key says."""
    big = context / "big"
    big.write_bytes(b"a" * (30 << 20))
    _file(context, "FROM busybox\nCOPY big /big\n")
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            big.write_bytes(b"b" * (30 << 20))
            time.sleep(0.02)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        done = rl("build", "-q", context)
    finally:
        stop.set()
        thread.join()
    assert done.returncode == 0 or "changed while it was copied" in done.stderr, done.stderr
    big.unlink()


# ---- RUN

def test_mounts_of_run(rl: Rl, context: Path) -> None:
    secret = rl.user.home / "secret"
    secret.write_text("hidden-word\n")
    _file(context, """FROM busybox AS tools
RUN mkdir /t && echo tool > /t/tool
FROM busybox
RUN --mount=type=secret,id=s,uid=1000,mode=0440 ls -ln /run/secrets/s | cut -c1-20 > /l && wc -c < /run/secrets/s > /n
RUN --mount=type=secret,id=e,env=TOKEN test "$TOKEN" = $(printf from-%s env)
RUN --mount=type=bind,from=tools,source=/t,target=/m,rw cat /m/tool > /tool && echo more > /m/more
RUN --mount=type=bind,source=d,target=/m test ! -e /m/more && ! touch /m/x
RUN --mount=type=cache,id=owned,target=/c,uid=5,mode=700 stat -c '%u %a' /c > /c-owner
RUN --mount=type=tmpfs,target=/t,size=1m ! dd if=/dev/zero of=/t/x bs=1M count=3
RUN --mount=type=bind,target=/ctx ls /ctx > /ctx-names
""")
    image = rl.ok("build", "-q", "--secret", f"id=s,src={secret}", "--secret", "id=e,env=SECRET", context, env={"SECRET": "from-env"})
    text = rl.ok("run", "--rm", image, "sh", "-c", "cat /l /n /tool /c-owner /ctx-names; ls -d /m /c /t /ctx /run/secrets 2>/dev/null; env")
    assert "-r--r-----" in text and "\n12\ntool\n5 700\nContainerfile\nd\none.txt\n" in text and "TOKEN" not in text
    assert not any(f"\n{name}\n" in text for name in ("/m", "/c", "/t", "/ctx", "/run/secrets"))
    data = rl.user.home / ".local/share/rl"
    found = subprocess.run(["grep", "-rlaE", "hidden-word|from-env", data], capture_output=True, text=True)
    assert found.stdout == "", "a secret is on the disk"


def test_caches_of_run_are_locked(rl: Rl, context: Path) -> None:
    _file(context, "FROM busybox AS a\nRUN --mount=type=cache,target=/c,id=l,sharing=locked test ! -e /c/busy && touch /c/busy && sleep 0.4 && rm /c/busy\n"
          "FROM busybox AS b\nRUN --mount=type=cache,target=/c,id=l,sharing=locked test ! -e /c/busy && touch /c/busy && sleep 0.4 && rm /c/busy && echo b > /b\n"
          "FROM scratch\nCOPY --from=a /bin/busybox /a\nCOPY --from=b /b /b\n")
    rl.ok("build", "-q", "--no-cache", "--jobs", "2", context)


def test_networks_limits_and_privileges(rl: Rl, context: Path) -> None:
    _file(context, """FROM busybox
RUN --network=none ip -o link | wc -l > /none
RUN ip -o link | wc -l > /default
RUN ulimit -n > /files
RUN hostname > /name; cat /etc/hosts > /h
RUN grep CapEff /proc/self/status > /caps
""")
    image = rl.ok("build", "-q", "--ulimit", "nofile=77:77", "--add-host", "some.test:10.1.2.3", "--cap-drop", "ALL", context)
    shown = rl.ok("run", "--rm", image, "sh", "-c", "cat /none /default /files /caps; grep -c 10.1.2.3 /h; ls -l /etc/hosts /etc/resolv.conf 2>&1 | wc -l").split()
    assert shown[:3] == ["1", "2", "77"] and int(shown[4], 16) == 0 and shown[5] == "1"
    for text, said in (("RUN --security=insecure id", "--allow security.insecure"), ("RUN --network=nosuch id", "default, none, host"),
                       ("RUN --mount=type=nosuch,target=/x id", "types are"), ("RUN --mount=type=cache,targt=/x id", "did you mean target"),
                       ("RUN --mount=type=secret,id=no,required=true id", "no such secret"), ("RUN --mount=type=bind,source=no,target=/x id", "not found"),
                       ("RUN --mount=type=bind,from=busybox,source=/no,target=/x id", "No such file")):
        done = rl("build", "-q", _file(context, f"FROM busybox\n{text}\n"))
        assert done.returncode == 125 and said in done.stderr and "Containerfile:2" in done.stderr, done.stderr
    rl.ok("build", "-q", "--allow", "security.insecure", _file(context, "FROM busybox\nRUN --security=insecure mount -t tmpfs x /tmp\n"))


def test_heredocs_with_an_interpreter(rl: Rl, context: Path) -> None:
    _file(context, "FROM busybox\nRUN <<EOF\n#!/bin/cat\nline $A\nEOF\nRUN <<A cat > /f && cat <<B >> /f\none\nA\ntwo\nB\n")
    assert rl.ok("run", "--rm", rl.ok("build", "-q", context), "cat", "/f") == "one\ntwo"


# ---- stages side by side

def test_stages_run_side_by_side(rl: Rl, context: Path) -> None:
    waiting = "touch /shared/{0}; for i in $(seq 80); do test -e /shared/{1} && break; sleep 0.1; done; test -e /shared/{1}"
    _file(context, f"FROM busybox AS a\nRUN {waiting.format('a', 'b')}\nFROM busybox AS b\nRUN {waiting.format('b', 'a')}\n"
          "FROM scratch\nCOPY --from=a /bin/busybox /a\nCOPY --from=b /bin/busybox /b\n")
    shared = rl.user.home / "shared"
    shutil.rmtree(shared, ignore_errors=True)
    shared.mkdir()
    os.chown(shared, rl.user.uid, rl.user.gid)
    rl.ok("build", "-q", "--no-cache", "--jobs", "2", "-v", f"{shared}:/shared", context)


def test_unneeded_stages(rl: Rl, context: Path) -> None:
    _file(context, "FROM busybox AS not-needed\nRUN exit 9\nFROM busybox\n")
    rl.ok("build", "-q", context)
    assert rl("build", "-q", "--skip-unused-stages=false", context).returncode == 9


def test_two_builds_at_once(rl: Rl, context: Path) -> None:
    _file(context, "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /n; sleep 0.3\nRUN echo $(cat /n) > /m\n")
    running = [rl.user.popen("rl", "build", "-q", "--no-cache", "-t", f"both-{number}", context) for number in range(3)]
    for process in running:
        assert process.wait(timeout=60) == 0
    assert len({rl.ok("run", "--rm", f"both-{number}", "sh", "-c", "cmp /n /m && cat /n") for number in range(3)}) == 3


# ---- outputs

def test_outputs(rl: Rl, context: Path) -> None:
    _file(context, "FROM busybox AS b\nRUN mkdir /o && echo x > /o/x && chown 7:8 /o/x && ln -s x /o/l\nFROM scratch\nCOPY --from=b /o /\n")
    before = _ids(rl)
    for words in (["-o", "out"], ["--output", "type=local,dest=out"]):
        shutil.rmtree(rl.user.home / "out", ignore_errors=True)
        rl.ok("build", "-q", *words, context)
        assert sorted(os.listdir(rl.user.home / "out")) == ["l", "x"] and (rl.user.home / "out/x").stat().st_uid == rl.user.uid
    streamed = rl.user.popen("rl", "build", "-q", "-o", "-", context, stdout=subprocess.PIPE).communicate(timeout=60)[0]
    with tarfile.open(fileobj=io.BytesIO(streamed)) as tar:
        assert {member.name: (member.uid, member.gid) for member in tar} == {"x": (7, 8), "l": (0, 0)}
    rl.ok("build", "-q", "-o", "type=tar,dest=out.tar", context)
    assert (rl.user.home / "out.tar").read_bytes() == streamed
    assert _ids(rl) == before, "an image was stored"
    image = rl.ok("build", "-q", "-o", "type=oci,dest=out.oci", "-o", "type=image,name=named", "--iidfile", "iid", "--metadata-file", "meta", "--logfile", "log", context)
    assert json.loads((rl.user.home / "meta").read_text())["containerimage.config.digest"] == f"sha256:{image}" and "COMMIT" in (rl.user.home / "log").read_text()
    assert (rl.user.home / "iid").read_text() == f"sha256:{image}" and rl.ok("images", "-q", "--no-trunc", "named") == f"sha256:{image}"
    assert f"sha256:{image}" in subprocess.run(["skopeo", "inspect", "--raw", f"oci-archive:{rl.user.home}/out.oci"], capture_output=True, text=True, check=True).stdout
    for words, said in (("type=nosuch,dest=x", "types are"), ("type=local", "not a place"), ("type=local,dest=-", "cannot go"), ("/proc/nosuch", "No such file"),
                        ("type=image,dest=x", "has a name")):
        done2 = rl("build", "-q", "-o", words, context)
        assert done2.returncode == 125 and said in done2.stderr, done2.stderr


def test_reproducible_bit_for_bit(rl: Rl, context: Path) -> None:
    _file(context, "FROM busybox\nRUN date > /dev/null; mkdir /d; echo x > /d/x\nCOPY one.txt /one\n")
    flags = ["--no-cache", "--timestamp", "1000000000"]
    first = rl.ok("build", "-q", *flags, "-t", "same", context)
    time.sleep(1.1)
    os.utime(context / "one.txt")
    assert rl.ok("build", "-q", *flags, "-t", "same", context) == first
    document = json.loads(rl.ok("image", "inspect", "same"))[0]
    assert document["Created"].startswith("2001-09-09T01:46:40")
    assert rl.ok("build", "-q", "--no-cache", "--rewrite-timestamp", context, env={"SOURCE_DATE_EPOCH": "1000000000"}) == first
    assert rl.ok("run", "--rm", "same", "stat", "-c", "%Y", "/d/x") == "1000000000"


# ---- what goes wrong

@pytest.mark.parametrize(("words", "code", "said"), [
    (["nosuch"], 125, "no such directory"),
    (["--target", "nosuch", "context"], 125, "no stage of that name"),
    (["--build-arg", "=x", "context"], 125, "no name"),
    (["--secret", "src=x", "context"], 125, "no id"),
    (["--secret", "id=x,src=/nosuch", "context"], 125, "no such file"),
    (["--ssh", "default=/nosuch", "context"], 125, "No such file"),
    (["--ssh", "default=/etc/passwd", "context"], 125, "no agent's socket"),
    (["--platform", "linux/nosuch/x/y", "context"], 125, "OS/ARCH"),
    (["--platform", "linux/amd64,linux/arm64", "--iidfile", "ids", "context"], 125, "--iidfile is about one image"),
    (["--platform", "linux/amd64,linux/arm64", "-o", "out", "context"], 125, "--output is about one image"),
    (["--platform", "linux/amd64,linux/arm64", "-"], 125, "standard input can be read once"),
    (["--platform", "linux/amd64,linux/arm64", "-t", "a", "--manifest", "b", "context"], 125, "both name the manifest list"),
    (["--platform", "linux/amd64,linux/arm64", "-t", "A B", "context"], 125, "invalid reference"),
    (["--volume", "named:/x", "context"], 125, "directories of this host"),
    (["--network", "container:x", "context"], 125, "container's network"),
    (["--isolation", "chroot", "context"], 125, "namespaces of a container"),
    (["--userns", "auto", "context"], 125, "use host"),
    (["--cache-to", "x", "context"], 125, "not a repository"),
    (["--cache-from", "127.0.0.1:1/x:tag", "context"], 125, "not a repository"),
    (["--cache-to", "127.0.0.1:1/x", "context"], 125, "127.0.0.1:1"),
    (["--cache-ttl", "1h", "context"], 125, "what they are made of"),
    (["--ignorefile", "nosuch", "context"], 125, "no such file"),
    (["-f", "nosuch", "context"], 125, "no such file"),
    (["-f", "x.in", "context"], 125, "preprocessor"),
    (["-t", "UPPER", "context"], 125, "hint:"),
    (["--debug-shell", "context"], 125, "needs a terminal"),
    (["--memory", "x", "context"], 125, "memory"),
    (["-f", "-", "-"], 125, "both"),
    (["--allow", "nonsense", "context"], 125, "security.insecure or network.host"),
    (["--logfile", "/nosuch/log", "context"], 125, "/nosuch/log"),
])
def test_wrong_inputs(rl: Rl, context: Path, words: list[str], code: int, said: str) -> None:
    _file(context, "FROM busybox\nRUN true\n")
    done = rl("build", "-q", *words, input="FROM busybox\n")
    assert (done.returncode, said in done.stderr, "Traceback" in done.stderr) == (code, True, False), done.stderr
    assert _left(rl) == []


@pytest.mark.parametrize(("text", "code", "said"), [
    ("FROM busybox\nRUN echo shown; exit 7\n", 7, "ended with exit code 7"),
    ("FROM busybox\nRUN sh -c 'kill -9 $$'; exit $?\n", 137, "exit code 137"),
    ("FROM busybox\nRUN [\"/nosuch\"]\n", 127, "no such file"),
    ("FROM busybox\nRUN [\"/etc/passwd\"]\n", 126, "Containerfile:2"),
    ("FROM busybox\nUSER nosuch\nRUN id\n", 125, "nosuch"),
    ("FROM busybox\nCOPY onee.txt /\n", 125, "did you mean one.txt?"),
    ("FROM busybox\nCOPY one.txt d /x\n", 125, "must be a directory"),
    ("FROM busybox\nCOPY --chown=nosuch one.txt /\n", 125, "nosuch"),
    ("FROM busybox\nCOPY --chmod=9 one.txt /\n", 125, "not a mode"),
    ("FROM busybox\nCOPY [x-z]* /\n", 125, "nothing in the build context matches"),
    ("FROM busybox AS a\nCOPY --from=b /x /x\nFROM busybox AS b\nFROM a\n", 125, "comes later"),
    ("FROM busybox AS a\nCOPY --from=a /x /x\n", 125, "itself"),
    ("FROM busybox\nCOPY --from=3 /x /x\n", 125, "not before this one"),
    ("FROM busybox AS a\nFROM busybox\nCOPY --from=a /nosuch /x\n", 125, "not found in a"),
    ("FROM $NONE\n", 125, "the name is empty"),
    ("FROM busybox\nEXPOSE x\n", 125, "not a port"),
    ("FROM busybox\nSTOPSIGNAL NOSUCH\n", 125, "NOSUCH"),
    ("FROM busybox\nENV A=${B:?must be given}\n", 125, "must be given"),
    ("FROM localhost/nosuch\n", 125, "localhost/nosuch"),
    ("FROM busybox\nADD broken.tar.gz /x\n", 125, "broken.tar.gz"),
    ("FROM busybox\nHEALTHCHECK --interval=x CMD true\n", 125, "Containerfile:2:13"),
])
def test_builds_that_fail(rl: Rl, context: Path, text: str, code: int, said: str) -> None:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as tar:
        tar.add("/bin/busybox", "bb")
    (context / "broken.tar.gz").write_bytes(whole.getvalue()[:-20000])
    before = _ids(rl)
    done = rl("build", "--jobs", "1", _file(context, text))
    assert (done.returncode, said in done.stderr, "Traceback" in done.stderr) == (code, True, False), done.stderr
    assert _left(rl) == [] and _ids(rl) == before
    if "shown" in text:
        assert "\nshown\n" in done.stdout


def test_several_platforms_make_a_list(rl: Rl, context: Path) -> None:
    _file(context, "FROM scratch AS files\nCOPY one.txt /one\nFROM scratch\nARG TARGETPLATFORM\nLABEL for=$TARGETPLATFORM\nCOPY --from=files /one /\nCOPY <<E /two\n$TARGETPLATFORM\nE\nCMD x\n")
    rl.ok("tag", "busybox", "many")  # the name moves
    output = rl.ok("build", "--progress=plain", "--platform", "linux/amd64,linux/arm64/v8", "-t", "many", "-t", "more:1", context)
    ids = output.splitlines()[-2:]
    assert "[linux/arm64/v8] [1] STEP 1/6" in output and output.count("JSONArgsRecommended") == 1, output
    assert "Successfully tagged localhost/many:latest" in output
    for name in ("many", "more:1"):
        entries = json.loads(rl.ok("manifest", "inspect", name))["manifests"]
        assert [entry["platform"].get("architecture") for entry in entries] == ["amd64", "arm64"]
    for image, platform in zip(ids, ("linux/amd64", "linux/arm64/v8"), strict=True):
        (found,) = json.loads(rl.ok("inspect", "--type", "image", image))
        assert found["Labels"]["for"] == platform and found["Architecture"] == platform.split("/")[1]
    old = {entry["digest"] for entry in entries}
    assert rl.ok("images", "-q", "busybox") not in rl.ok("images", "-q", "many")
    # Again, with other files: the lists have the new images only. --manifest adds to one.
    (context / "one.txt").write_text("other\n")
    rl.ok("build", "-q", "--platform", "linux/amd64", "--platform", "linux/arm64", "-t", "many", context)
    entries = json.loads(rl.ok("manifest", "inspect", "many"))["manifests"]
    assert len(entries) == 2 and not {entry["digest"] for entry in entries} & old
    rl.ok("build", "-q", "--platform", "linux/riscv64,linux/s390x", "--manifest", "many", context)
    assert len(json.loads(rl.ok("manifest", "inspect", "many"))["manifests"]) == 4
    assert rl("build", "--platform", "linux/amd64,linux/arm64", "--check", context).returncode == 125
    rl.ok("rmi", "many", "more:1")
    assert _left(rl) == []


def test_check_tells_what_is_unwise_and_builds_nothing(rl: Rl, context: Path) -> None:
    before = _ids(rl)
    text = "FROM busybox AS Base\nCMD x\n"
    done = rl("build", "--check", "-t", "checked", _file(context, text))
    assert done.returncode == 125 and "Error: context/Containerfile: 2 warnings" in done.stderr and "hint: " in done.stderr
    assert "context/Containerfile:1:17: the name of stage Base" in done.stdout and "(JSONArgsRecommended)" in done.stdout
    skip = "skip=JSONArgsRecommended,StageNameCasing"
    assert rl.ok("build", "--check", "--build-arg", f"BUILDKIT_DOCKERFILE_CHECK={skip}", context) == "Check complete, no warnings found."
    assert _ids(rl) == before and _left(rl) == []
    assert "[Warning] context/Containerfile:2:1: " in rl.ok("build", context), "a build tells, and goes on"
    done = rl("build", _file(context, f"# check=error=true\n{text}"))
    assert done.returncode == 125 and "2 warnings" in done.stderr
    done = rl("build", _file(context, f"# check=nothing\n{text}"))
    assert done.returncode == 125 and "context/Containerfile:1:9: check: 'nothing'" in done.stderr and "        ^" in done.stderr
    assert _left(rl) == []


def test_a_warning_for_unused_arguments(rl: Rl, context: Path) -> None:
    _file(context, "ARG A=1\nFROM busybox\nARG B\nENV X=$B\n")
    assert "not consumed: [C]" in rl.ok("build", "--build-arg", "A=2", "--build-arg", "B=2", "--build-arg", "C=2", "--build-arg", "http_proxy=", context)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_end_in_the_middle(rl: Rl, context: Path, how: signal.Signals) -> None:
    _file(context, "FROM busybox\nRUN sleep 30.7\n")
    process = rl.user.popen("rl", "build", context)
    deadline = time.monotonic() + 20
    while subprocess.run(["pgrep", "-U", str(rl.user.uid), "-f", "^sleep 30.7"], capture_output=True).returncode:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = [int(pid) for pid in subprocess.run(["pgrep", "-U", str(rl.user.uid)], capture_output=True, text=True).stdout.split()]
    os.kill(min(pid for pid in children if b"build" in Path(f"/proc/{pid}/cmdline").read_bytes()), how)
    process.wait(timeout=20)
    while subprocess.run(["pgrep", "-U", str(rl.user.uid), "-f", "^sleep 30.7|pasta|passt"], capture_output=True).returncode == 0:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    rl.ok("system", "prune", "--external", "--force")
    assert _left(rl) == []
    rl.ok("build", "-q", _file(context, "FROM busybox\nRUN true\n"))


def test_a_debug_shell(rl: Rl, context: Path) -> None:
    _file(context, "FROM busybox\nRUN echo kept > /kept\nRUN echo half > /half; exit 5\n")
    console = Console(rl.user, ["rl", "build", "--debug-shell", str(context)])
    try:
        console.until("/ # ")
        console.type("cat /kept; ls /half; exit\n")
        console.until("kept\r\n")
        console.until("No such file")
        assert console.end() == 5
    finally:
        console.close()
