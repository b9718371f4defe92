"""Runs in the virtual machine: does what the tests ask for over a virtio serial port, as whoever started it.

A request is a line of JSON, ``{"id", "argv", "input", "env", "timeout"}``; so is its answer, ``{"id", "code", "out", "err"}``.
The first line sent is ``{"hello": <boot id>}``. Commands run side by side; a process that a command leaves behind and that
keeps its output open does not hold up the answer: output goes through files.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading

port = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY)
answers = threading.Lock()


def send(message):
    data = json.dumps(message).encode() + b"\n"
    with answers:
        while data:
            data = data[os.write(port, data) :]


def perform(request):
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            child = subprocess.Popen(
                request["argv"], stdin=subprocess.PIPE, stdout=out, stderr=err, cwd=os.environ.get("HOME", "/"),
                env={**os.environ, **request.get("env", {})}, start_new_session=True,
            )  # fmt: skip
            child.stdin.write(request.get("input", "").encode())
            child.stdin.close()
        except BrokenPipeError:
            pass
        except OSError as error:
            send({"id": request["id"], "code": 127, "out": "", "err": str(error)})
            return
        try:
            code = child.wait(request["timeout"])
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, 9)
            child.wait()
            code = "timeout"
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="surrogateescape"))
        send({"id": request["id"], "code": code, "out": texts[0], "err": texts[1]})


def main():
    os.environ.setdefault("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
    os.environ["LANG"] = "C.UTF-8"
    if os.getuid():
        os.environ["PATH"] = os.path.expanduser("~/venv/bin:") + os.environ["PATH"] + ":/usr/sbin:/sbin"
    with open("/proc/sys/kernel/random/boot_id") as file:
        send({"hello": file.read().strip()})
    rest = b""
    while data := os.read(port, 65536):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            threading.Thread(target=perform, args=(json.loads(line),), daemon=True).start()


main()
