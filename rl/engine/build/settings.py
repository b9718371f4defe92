"""What the flags of `rl build` mean, checked before anything is done. Called by rl.engine.build.build."""

from __future__ import annotations

import os

from rl.engine import create
from rl.engine.build.exporting import Output
from rl.engine.build.runmounts import Secrets
from rl.engine.build.scopes import PROXIES
from rl.engine.spec import values
from rl.engine.tag import target_name
from rl.errors import NotFoundError, UnsupportedError, UsageError
from rl.image import platforms
from rl.image.archive import this_platform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.config.model import ContainerConfig
    from rl.engine.context import Engine

FORMATS = {"oci": "oci", "docker": "docker", "v2s2": "docker", "oci-archive": "oci"}
#: Flags of `rl run` that hold for RUN, too.
_RUN_FLAGS = (
    "add_host", "cap_add", "cap_drop", "cgroup_parent", "cgroupns", "cpu_period", "cpu_quota", "cpu_shares",
    "cpuset_cpus", "cpuset_mems", "device", "dns", "dns_option", "dns_search", "group_add", "ipc", "memory",
    "memory_swap", "network", "no_hosts", "no_hostname", "pid", "security_opt", "shm_size", "ulimit", "uts", "volume",
)  # fmt: skip


class Settings:
    """The flags of one build. Raises UsageError, NotFoundError for what cannot be."""

    def __init__(self, engine: Engine, options: dict[str, Any]) -> None:
        self.options = options
        self.strict = engine.options.get("limits") == "strict"
        self.outputs = [Output(text) for text in options.get("output", [])]
        names = [*options.get("tag", []), *(name for output in self.outputs for name in output.names)]
        self.tags = [target_name(name) for name in names]
        self.format = FORMATS[options.get("format", "oci")]
        self.build_args = _arguments(options)
        self.no_cache = bool(options.get("no_cache"))
        self.layers = options.get("layers", True)
        self.squash_all = bool(options.get("squash_all"))
        self.squash = bool(options.get("squash")) or self.squash_all or not self.layers
        self.allow = list(options.get("allow", []))
        self.jobs = options.get("jobs") or os.cpu_count() or 1
        self.target = options.get("target", "")
        self.secrets = _secrets(options)
        self.stdin = bool(options.get("stdin"))
        self.debug_shell = bool(options.get("debug_shell"))
        _check(options)
        self.contexts = _contexts(options)
        self.platform = _platform(options)
        self.timestamp = _timestamp(options, self.build_args)
        self.rewrite_timestamp = bool(options.get("rewrite_timestamp")) or "timestamp" in options
        self.labels = values.pairs(options.get("label", []), "--label")
        self.annotations = values.pairs(options.get("annotation", []), "--annotation", strict=True)
        self.env = values.pairs(_env(options), "--env")
        self.host_proxies: dict[str, str] = {}
        if options.get("http_proxy", True):
            self.host_proxies = {name: os.environ[name] for name in sorted(PROXIES) if os.environ.get(name)}
        self.run_options = {name: options[name] for name in _RUN_FLAGS if name in options}
        self.template: ContainerConfig = create.template(engine, _for_template(self.run_options))
        #: What of it counts for the cache of RUN.
        self.run_key = sorted((name, str(value)) for name, value in self.run_options.items() if name in _IN_KEY)


def _check(options: dict[str, Any]) -> None:
    """Flags that rl has for Podman's sake, with the one value that it has, too; and those of a few words."""
    for word in options.get("allow", []):
        if word not in ("security.insecure", "network.host"):
            raise UsageError(f"--allow {word}: unknown", "it is security.insecure or network.host")
    if options.get("disable_compression") is False:
        raise UnsupportedError(
            "--disable-compression=false: rl keeps the layers of a build plain", "they are compressed by push and save"
        )
    if options.get("identity_label"):
        raise UnsupportedError("--identity-label: rl adds no label of its own", "leave it out, or use --label")
    if options.get("isolation", "oci") not in ("oci", "rootless"):
        raise UnsupportedError(
            f"--isolation={options['isolation']}: RUN has the namespaces of a container", "use oci, or leave it out"
        )
    if options.get("userns", "host") != "host":
        raise UnsupportedError(
            f"--userns={options['userns']}: builds run in the user namespace of all containers",
            "use host, or leave it out",
        )


#: What may change what a command writes, and not only whether it succeeds.
_IN_KEY = frozenset(("cap_add", "cap_drop", "device", "group_add", "security_opt", "ulimit", "volume", "add_host"))


def _for_template(options: dict[str, Any]) -> dict[str, Any]:
    found = dict(options)
    network = found.get("network") or []
    found["network"] = [network] if isinstance(network, str) else list(network)
    for mode in found["network"]:
        if mode.startswith("container:"):
            raise UsageError(f"--network={mode}: a build cannot join a container's network", "use --network=host")
    for word in found.get("volume", []):
        source = word.split(":")[0]
        if ":" not in word or not source.startswith(("/", ".")):
            what = f"--volume {word}: builds mount directories of this host"
            raise UsageError(what, "write it as /HOST-DIR:/DIR[:OPTIONS]")
    return found


def _arguments(options: dict[str, Any]) -> dict[str, str]:
    """--build-arg-file, then --build-arg: NAME alone takes the caller's variable, if that is set."""
    lines = []
    for path in options.get("build_arg_file", []):
        lines += values.label_files([path], "--build-arg-file")
    found = {}
    for line in [*lines, *options.get("build_arg", [])]:
        name, equals, value = line.partition("=")
        if not name:
            raise UsageError(f"--build-arg {line!r}: no name", "write it as --build-arg NAME=VALUE")
        if equals:
            found[name] = value
        elif name in os.environ:
            found[name] = os.environ[name]
    return found


def _env(options: dict[str, Any]) -> list[str]:
    return [line if "=" in line else f"{line}={os.environ.get(line, '')}" for line in options.get("env", [])]


def _fields(text: str, flag: str, known: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for field in text.split(","):
        key, equals, value = field.partition("=")
        if key not in known or not equals or not value:
            raise UsageError(f"{flag} {text!r}: {field!r}", f"fields are {', '.join(one + '=…' for one in known)}")
        found[key] = value
    return found


def _secrets(options: dict[str, Any]) -> Secrets:
    found = Secrets()
    for text in options.get("secret", []):
        fields = _fields(text, "--secret", ("id", "src", "source", "env", "type"))
        kind = fields.get("type", "env" if "env" in fields else "file")
        if kind not in ("file", "env"):
            raise UsageError(f"--secret {text!r}: type={kind}", "it is file or env")
        name = fields.get("id", "")
        path = fields.get("src") or fields.get("source") or (name if kind == "file" else "")
        if not name:
            raise UsageError(f"--secret {text!r}: no id", "write it as --secret id=NAME,src=FILE")
        if kind == "env":
            variable = fields.get("env") or fields.get("src") or fields.get("source") or name
            if variable not in os.environ:
                raise NotFoundError(f"--secret {text!r}: the variable {variable} is not set")
            found.variables[name] = variable
            continue
        if not os.path.isfile(path):
            raise NotFoundError(f"--secret {text!r}: {path}: no such file", "src=FILE says where it is")
        found.files[name] = os.path.abspath(path)
    for text in options.get("ssh", []):
        name, _, path = text.partition("=")
        found.agents[name] = _agent(text, path or os.environ.get("SSH_AUTH_SOCK", ""))
    return found


def _agent(text: str, path: str) -> str:
    import stat

    if not path:
        raise NotFoundError(f"--ssh {text}: no agent: SSH_AUTH_SOCK is not set", "eval $(ssh-agent); ssh-add")
    try:
        socket = stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError as error:
        raise NotFoundError(f"--ssh {text}: {path}: {error.strerror}") from None
    if not socket:
        raise UsageError(
            f"--ssh {text}: {path} is no agent's socket",
            f"keys go to an agent first: ssh-add {path}; then --ssh {text.partition('=')[0]}",
        )
    return os.path.abspath(path)


def _contexts(options: dict[str, Any]) -> dict[str, str]:
    found = {}
    for text in options.get("build_context", []):
        name, equals, value = text.partition("=")
        if not name or not equals or not value:
            raise UsageError(f"--build-context {text!r}: not NAME=CONTEXT", "for example docs=../docs, base=docker-image://alpine")
        found[name.lower()] = value
    return found


def _platform(options: dict[str, Any]) -> tuple[str, str, str]:
    given = options.get("platform", [])  # several are several builds (rl.engine.build.several)
    asked = platforms.requested(given[0] if given else "", options.get("arch", ""), options.get("os", ""),
                                options.get("variant", ""))
    return tuple(asked) if asked else this_platform()  # type: ignore[return-value]


def _timestamp(options: dict[str, Any], arguments: dict[str, str]) -> int | None:
    """The time of all that is new, in seconds: --timestamp, --source-date-epoch, SOURCE_DATE_EPOCH; None: as it is."""
    for flag in ("timestamp", "source_date_epoch"):
        if flag in options:
            return int(options[flag])
    text = arguments.get("SOURCE_DATE_EPOCH") or os.environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return None
    if not text.isdecimal():
        raise UsageError(f"SOURCE_DATE_EPOCH={text}: not a number of seconds", "date +%s")
    return int(text)
