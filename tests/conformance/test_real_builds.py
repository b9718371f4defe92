"""Builds that people do: nginx by apt, a Python service by pip, a static C program from two stages, a file of 60 instructions.

Base images are Debian's, from the registry on loopback; packages come from where this machine gets its own.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import images, users
from support.registry import Registry
from system.conftest import Rl, eventually, fetch, free_port, make_lane

#: Debian's and PyPI's certificates as this machine trusts them: a company's proxy may answer in their place.
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


@pytest.fixture(scope="module")
def builder(registry: Registry, busybox_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rl]:
    rl = make_lane("user", tmp_path_factory.mktemp("lane"))
    rl.ok("load", "-q", "-i", busybox_archive)
    registry.push_archive(images.debian("gcc"), "gcc:latest")
    yield rl
    rl.clean()
    users.wipe(rl.user)


def _context(rl: Rl, name: str, files: dict[str, str]) -> Path:
    directory = rl.user.home / name
    subprocess.run(["rm", "-rf", directory], check=True, timeout=60)  # of a run that was cut off
    directory.mkdir()
    for file, text in files.items():
        (directory / file).parent.mkdir(exist_ok=True)
        (directory / file).write_text(text)
    return directory


def test_nginx_by_apt(builder: Rl, registry: Registry) -> None:
    context = _context(builder, "web", {
        "Containerfile": (
            f"FROM {registry.host}/python\n"
            "RUN apt-get update && apt-get install -y --no-install-recommends nginx-light && rm -rf /var/lib/apt/lists/*\n"
            "COPY site/ /var/www/html/\nEXPOSE 80\nSTOPSIGNAL SIGQUIT\nCMD [\"nginx\", \"-g\", \"daemon off;\"]\n"
        ),
        "site/index.html": "built by rl\n",
    })
    output = builder.ok("build", "-t", "web", context, timeout=400)
    assert "Setting up nginx" in output
    port = free_port()
    builder.ok("run", "-d", "--name", "web", "-p", f"{port}:80", "web")
    assert "built by rl" in str(eventually(lambda: fetch(port)))
    assert builder.ok("run", "--rm", "web", "sh", "-c", "dpkg -s nginx-light | grep Status; cat /etc/resolv.conf | wc -c; ls /var/lib/apt/lists") \
        .startswith("Status: install ok installed")
    before = time.monotonic()
    again = builder.ok("build", "-t", "web2", context)
    assert time.monotonic() - before < 10 and "Using cache" in again
    assert len(set(builder.ok("images", "-q", "--no-trunc", "web", "web2").split())) == 1


_SERVICE = """
import bottle
app = bottle.default_app()

@bottle.route("/")
def index():
    return "bottle " + bottle.__version__

bottle.run(host="0.0.0.0", port=8000, quiet=True)
"""


def test_python_service_by_pip(builder: Rl, registry: Registry) -> None:
    context = _context(builder, "service", {
        "Containerfile": (
            f"FROM {registry.host}/python AS base\n"  # which has the smallest Python only
            "RUN apt-get update && apt-get install -y --no-install-recommends python3\n"
            "FROM base AS wheels\n"
            "RUN apt-get install -y --no-install-recommends python3-pip\n"
            "COPY requirements.txt .\n"
            "ARG PIP_CERT\n"
            "RUN --mount=type=cache,target=/root/.cache/pip pip install --target /opt/app -r requirements.txt\n"
            "FROM base\nENV PYTHONPATH=/opt/app PYTHONUNBUFFERED=1\n"
            "COPY --from=wheels /opt/app /opt/app\nCOPY --chown=1000:1000 service.py /srv/\nUSER 1000\n"
            "HEALTHCHECK --interval=1s CMD python3 -c 'import urllib.request as u; u.urlopen(\"http://127.0.0.1:8000\")'\n"
            "EXPOSE 8000\nENTRYPOINT [\"python3\"]\nCMD [\"service.py\"]\n"
        ),
        "requirements.txt": "bottle==0.13.2\n", "service.py": _SERVICE,
    })
    trust = ["--volume", f"{_CERTIFICATES}:/host-certificates.pem:ro", "--build-arg", "PIP_CERT=/host-certificates.pem"]
    builder.ok("build", "--format", "docker", "--jobs", "2", "-t", "service", *trust, context, timeout=500)
    port = free_port()
    builder.ok("run", "-d", "--name", "service", "-p", f"{port}:8000", "service")
    assert "bottle 0.13.2" in str(eventually(lambda: fetch(port)))
    assert builder.ok("wait", "--condition", "healthy", "service", timeout=30) == "-1"
    assert "PIP_CERT" not in builder.ok("run", "--rm", "--entrypoint", "env", "service")
    assert builder("run", "--rm", "--entrypoint", "ls", "service", "/host-certificates.pem").returncode == 2


def test_c_program_in_two_stages(builder: Rl, registry: Registry) -> None:
    context = _context(builder, "c", {
        "Dockerfile": (
            f"FROM {registry.host}/gcc AS build\nWORKDIR /src\nCOPY *.c .\nRUN gcc -O2 -static -o /hello *.c && strip /hello\n"
            "FROM scratch\nCOPY --from=build /hello /\nENTRYPOINT [\"/hello\"]\n"
        ),
        "main.c": '#include <stdio.h>\nconst char *name(void);\nint main(void) { printf("hello, %s\\n", name()); return 7; }\n',
        "name.c": 'const char *name(void) { return "rootless"; }\n',
    })
    builder.ok("build", "-q", "-t", "hello", context, timeout=300)
    done = builder("run", "--rm", "hello")
    assert (done.returncode, done.stdout) == (7, "hello, rootless\n")
    assert len(builder.ok("history", "-q", "hello").split()) == 2
    (context / "main.c").write_text("int main(void) { return nothing; }\n")
    failed = builder("build", "-t", "hello", context)
    assert failed.returncode != 0 and "Dockerfile:4" in failed.stderr and "'nothing' undeclared" in failed.stdout + failed.stderr
    assert builder("run", "--rm", "hello").returncode == 7, "the image of before keeps its name"


def test_sixty_instructions(builder: Rl) -> None:
    lines = ["FROM busybox"]
    for number in range(15):
        lines += [f"ENV N{number}={number}", f"WORKDIR /w{number}", f"RUN echo $N{number} > f{number}", f"LABEL l{number}=$N{number}"]
    context = _context(builder, "sixty", {"Containerfile": "\n".join(lines) + "\n"})
    first = builder.ok("build", "-q", "-t", "sixty", context)
    assert builder.ok("build", "-q", context) == first
    assert builder.ok("run", "--rm", "sixty", "sh", "-c", "cat /w*/f* | sort -n | tr '\\n' ,; pwd") == "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,/w14"
    (context / "Containerfile").write_text("\n".join([*lines[:-1], "RUN cat /w*/f* | wc -l > /count"]) + "\n")
    output = builder.ok("build", "-t", "sixty", context)
    assert output.count("Using cache") >= 45 and builder.ok("run", "--rm", "sixty", "cat", "/count") == "15"
