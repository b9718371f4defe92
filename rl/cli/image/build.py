"""`rl build`: an image from a Containerfile."""

from __future__ import annotations

import sys

from rl.cli import common, output
from rl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "[CONTEXT]"
ARGUMENTS = (0, 1)
INTERSPERSED = True
COMPLETE = "file"
_POLICIES = ("true", "false", "always", "missing", "never", "newer", "ifmissing", "ifnewer")
OPTIONS = (
    ("--add-host", "list", "HOST:IP", "Add a line to /etc/hosts of RUN"),
    ("--allow", "list", "PRIVILEGE", "Allow RUN --security=insecure: security.insecure"),
    ("--annotation", "array", "KEY=VALUE", "Add an annotation to the image's manifest"),
    ("--arch", "value", "ARCH", "Architecture of the image, and of its bases"),
    ("--authfile", "value", "PATH", "Credentials file for pulls (default $REGISTRY_AUTH_FILE, then auth.json)"),
    ("--build-arg", "array", "NAME[=VALUE]", "Value of an ARG; without a value, that of the caller's variable"),
    ("--build-arg-file", "array", "PATH", "Read values of ARGs from a file, NAME=VALUE a line"),
    ("--build-context", "array", "NAME=CONTEXT", "Further context: a directory, a URL, docker-image://NAME, oci-layout://DIR"),
    ("--cache-from", "array", "REPOSITORY", "Take steps that are not in the cache from this repository of a registry"),
    ("--cache-to", "array", "REPOSITORY", "Push the steps of the build to this repository of a registry"),
    ("--cap-add", "list", "CAP", "Add a capability to RUN, or ALL"),
    ("--cap-drop", "list", "CAP", "Drop a capability from RUN, or ALL"),
    ("--cert-dir", "value", "DIR", "Certificates and keys for pulls (default ~/.config/containers/certs.d)"),
    ("--cgroupns", "value", "MODE", "Cgroup namespace of RUN: private (default) or host"),
    ("--check", "flag", "", "Build nothing: tell what is unwise in the Containerfile; 125 if anything is"),
    ("--compress", "flag", "", "Changes nothing, in Podman as here: for Docker's scripts"),
    ("-D --disable-compression", "flag", "", "Keep new layers plain; rl always does, push and save compress them"),
    ("--cgroup-parent", "value", "PATH", "Where the cgroups of RUN are made"),
    ("--cpu-period", "value", "USEC", "CPU bandwidth period of RUN in microseconds", "uint"),
    ("--cpu-quota", "value", "USEC", "CPU bandwidth of RUN per period in microseconds", "int"),
    ("-c --cpu-shares", "value", "N", "CPU weight of RUN relative to others (default 1024)", "uint"),
    ("--cpuset-cpus", "value", "LIST", "CPUs for RUN, such as 0-3,7"),
    ("--cpuset-mems", "value", "LIST", "Memory nodes for RUN"),
    ("--creds", "value", "USER[:PASSWORD]", "Credentials for pulls"),
    ("--debug-shell", "flag", "", "When a RUN fails, open a shell in the files before it"),
    ("--device", "list", "HOST[:CTR[:RWM]]", "Add a device of the host to RUN"),
    ("--disable-content-trust", "flag", "", "Changes nothing, in Podman as here: for Docker's scripts"),
    ("--dns", "list", "IP", "Name server of RUN"),
    ("--dns-option", "list", "OPTION", "Option for resolv.conf of RUN"),
    ("--dns-search", "list", "DOMAIN", "Search domain for resolv.conf of RUN"),
    ("--env", "array", "NAME[=VALUE]", "Set a variable of the image, after all instructions"),
    ("-f --file", "array", "PATH", "Containerfile (default Containerfile or Dockerfile of the context); - is stdin"),
    ("--force-rm", "flag", "", "Changes nothing: rl leaves no containers of a build"),
    ("--format", "value", "FORMAT", "Format of the image: oci (default) or docker", ("oci", "docker", "v2s2")),
    ("--from", "value", "IMAGE", "Image to use instead of the first one that FROM names"),
    ("--group-add", "list", "GROUP", "Further group for RUN; keep-groups: the caller's own"),
    ("--http-proxy", "flag", "", "Pass the caller's proxy variables to RUN (default true)"),
    ("--ignorefile", "value", "PATH", "Ignore file to use instead of the context's"),
    ("--identity-label", "flag", "", "Only false: rl adds no label of its own"),
    ("--iidfile", "value", "PATH", "Write the image's id to this file"),
    ("--ipc", "value", "MODE", "IPC namespace of RUN: private (default) or host"),
    ("--isolation", "value", "TYPE", "Only oci and rootless, which is what RUN has"),
    ("--jobs", "value", "N", "How many stages are built at the same time (default: as many as there are CPUs)", "uint"),
    ("--label", "array", "KEY=VALUE", "Add a label to the image"),
    ("--layers", "flag", "", "A layer for each instruction that writes files (default true), else one for all"),
    ("--logfile", "value", "PATH", "Write the output of the build to this file, too"),
    ("--manifest", "value", "LIST", "Add the image to this manifest list, which is made if there is none"),
    ("-m --memory", "value", "SIZE", "Memory limit of RUN, such as 512m"),
    ("--memory-swap", "value", "SIZE", "Limit of memory and swap of RUN together; -1: unlimited swap"),
    ("--metadata-file", "value", "PATH", "Write id, names and digest of the image to this file, as JSON"),
    ("--network", "value", "MODE", "Network of RUN: pasta, slirp4netns, none, host, ns:PATH"),
    ("--no-cache", "flag", "", "Do all steps anew"),
    ("--no-hostname", "flag", "", "Keep the image's /etc/hostname in RUN"),
    ("--no-hosts", "flag", "", "Keep the image's /etc/hosts in RUN"),
    ("--omit-history", "flag", "", "Leave the history out of the image"),
    ("--os", "value", "OS", "Operating system of the image, and of its bases"),
    ("--os-feature", "array", "FEATURE", "Feature of the operating system that the image needs"),
    ("--os-version", "value", "VERSION", "Version of the operating system that the image needs"),
    ("-o --output", "array", "WHERE", "Write files to DIR or - (tar), or type=local|tar|oci|docker|image,dest=…"),
    ("--pid", "value", "MODE", "PID namespace of RUN: private (default) or host"),
    ("--platform", "list", "OS/ARCH[/VARIANT]", "Platform of the image and its bases; several make a manifest list"),
    ("--progress", "value", "HOW", "Show progress: auto (default), plain, tty, quiet",
     ("auto", "plain", "tty", "quiet")),
    ("--pull", "optional", "POLICY", "Pull bases: missing (default), always (--pull alone), newer, never", _POLICIES),
    ("-q --quiet", "flag", "", "Print nothing but the id"),
    ("--retry", "value", "N", "How often a failing transfer is repeated (default 3)", "uint"),
    ("--retry-delay", "value", "TIME", "Pause before the first repetition (default 1s)"),
    ("--rewrite-timestamp", "flag", "", "With --source-date-epoch: no new file has a later time, either"),
    ("--rm", "flag", "", "Changes nothing: rl leaves no containers of a build"),
    ("--secret", "array", "id=NAME[,src=PATH|,env=VAR]", "Secret for RUN --mount=type=secret"),
    ("--security-opt", "array", "OPTION", "Security option of RUN, see rl run"),
    ("--shm-size", "value", "SIZE", "Size of /dev/shm in RUN (default 64m)"),
    ("--skip-unused-stages", "flag", "", "Leave out stages that the target does not need (default true)"),
    ("--source-date-epoch", "value", "SECONDS", "Time of the image and its history (default $SOURCE_DATE_EPOCH)",
     "uint"),
    ("--squash", "flag", "", "One layer for all that is new"),
    ("--squash-all", "flag", "", "One layer for all, the base's files included"),
    ("--ssh", "array", "NAME[=SOCKET]", "Agent for RUN --mount=type=ssh (default $SSH_AUTH_SOCK)"),
    ("--stdin", "flag", "", "Let RUN read standard input"),
    ("-t --tag", "array", "NAME", "Name of the image; may be repeated"),
    ("--target", "value", "STAGE", "Build this stage, by name or number"),
    ("--timestamp", "value", "SECONDS", "Time of the image, its history, and at most of all new files", "uint"),
    ("--tls-verify", "flag", "", "Require HTTPS and a valid certificate for pulls (default true)"),
    ("--ulimit", "array", "NAME=SOFT[:HARD]", "Resource limit of RUN's processes"),
    ("--unsetenv", "list", "NAME", "Leave a variable out of the image"),
    ("--unsetlabel", "list", "KEY", "Leave a label out of the image"),
    ("--variant", "value", "VARIANT", "Variant of the architecture"),
    ("--userns", "value", "MODE", "Only host: the user namespace of all containers"),
    ("--uts", "value", "MODE", "UTS namespace of RUN: private (default) or host"),
    ("-v --volume", "array", "HOST-DIR:DIR[:OPTIONS]", "Mount a directory of this host in RUN"),
)
HELP = """Build an image from a Containerfile.

CONTEXT is the directory whose files COPY and ADD can take (default: the one you are in), a tar archive, the URL of
one or of a git repository (URL#REF:DIRECTORY), or - for an archive or a Containerfile from standard input. The exit
code is that of a RUN that fails.
"""

_PULL = {"true": "always", "false": "missing", "ifmissing": "missing", "ifnewer": "newer"}


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.build import progress
    from rl.engine.build.build import build

    if "creds" in options:
        options["creds"] = common.with_password(options["creds"])
    if "pull" in options:
        options["pull"] = _PULL.get(options["pull"], options["pull"])
    if "retry_delay" in options:
        from rl.engine.times import duration_ns

        options["retry_delay"] = duration_ns(options["retry_delay"]) / 1e9
    if options.get("debug_shell") and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("--debug-shell needs a terminal", "run it where you can type")
    display = progress.choose(options)
    engine.warn = display.warning
    try:
        image_id = build(engine, arguments[0] if arguments else ".", options, display.event)
    except BaseException:
        display.close(failed=True)
        raise
    display.close()
    if options.get("check") and not options.get("quiet"):
        print("Check complete, no warnings found.")
    if image_id:
        if "iidfile" in options:
            output.to_file(options["iidfile"], f"sha256:{image_id}")
        if not any(text == "-" or "dest=-" in text for text in options.get("output", [])):
            print(image_id)
    return 0
