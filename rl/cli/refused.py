"""What Podman has and rl refuses, with the reason: commands, and flags of commands that rl has.

One table for the reader of command lines (:mod:`rl.cli.clicked`), which answers with the reason instead of "unknown
flag", and for docs/podman-commands.md (contrib/podman-table). Commands are named as Podman names them in its groups:
``container run``. A flag that works for some values only is not here: its own check says which.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.errors import UnsupportedError

_PODS = "rl has no pods yet; --network, --ipc and --pid container:NAME share the namespaces of another container"
_NETWORKS = "rl has no user-defined networks yet, and pasta and slirp4netns have no such thing"
_CRIU = (
    "CRIU needs CAP_CHECKPOINT_RESTORE in the host's own user namespace, that is root; "
    "`rl pause` stops a container in memory, `rl commit` keeps its files as an image"
)

_CREATE = {
    "--decryption-key": "rl reads no encrypted image layers; decrypt it first: skopeo copy --decryption-key",
    "--device-cgroup-rule": "a container of rl runs in a user namespace, where nobody can make a device and no device "
    "filter can be set; --device gives it one of the host's",
    "--ip": f"{_NETWORKS}; --network=pasta:-a,ADDRESS sets the address of this container alone",
    "--ip6": f"{_NETWORKS}; --network=pasta:-a,ADDRESS sets the address of this container alone",
    "--network-alias": f"{_NETWORKS}; --add-host and --name give names that the container itself resolves",
    "--oom-kill-disable": "cgroup v2 has no such switch; --oom-score-adj tells the kernel whom to spare",
    "--pod": _PODS,
    "--pod-id-file": _PODS,
    "--rdt-class": "Intel RDT classes are set in /sys/fs/resctrl, which only root may write; ask the administrator",
    "--signature-policy": "signatures are checked as policy.json says; put it at ~/.config/containers/policy.json",
}

_SIGSTORE = "rl signs with GPG keys; push, then: cosign sign --key KEY IMAGE"
_PUSH = {
    "--encrypt-layer": "rl encrypts no layers; skopeo copy --encryption-key does",
    "--encryption-key": "rl encrypts no layers; skopeo copy --encryption-key does",
    "--sign-by-sigstore": _SIGSTORE,
    "--sign-by-sigstore-private-key": _SIGSTORE,
}

_USERNS = "builds run in the user namespace that containers share; leave it out"
_BUILD = {
    "--all-platforms": "no Containerfile says for which it is meant; name them: --platform linux/amd64,linux/arm64",
    "--cache-ttl": "steps are known by what they are made of; rl image prune --build-cache empties it",
    "--cpp-flag": "rl runs no C preprocessor; cpp -E -P FILE | rl build -f - CONTEXT",
    "--decryption-key": _CREATE["--decryption-key"],
    "--hooks-dir": "rl reads no directories of OCI hooks; make what they do a RUN",
    "--logsplit": "platforms are built one after the other, so there is one log; --logfile names it",
    "--runtime-flag": "RUN is done by the built-in runtime, which takes no flags; leave it out",
    "--sign-by": "an image of this machine has no signature; rl push --sign-by KEY IMAGE",
    "--userns-gid-map": _USERNS,
    "--userns-gid-map-group": _USERNS,
    "--userns-uid-map": _USERNS,
    "--userns-uid-map-user": _USERNS,
}

#: command → flag → reason
FLAGS: dict[str, dict[str, str]] = {
    "container clone": {"--pod": _PODS},
    "container create": {**_CREATE, "--init-ctr": _PODS},
    "container run": _CREATE,
    "image build": _BUILD,
    "image push": _PUSH,
    "manifest push": {
        "--sign-by": "the list is not signed, each image in it is; rl image sign --all --sign-by KEY docker://LIST",
        "--sign-by-sigstore-private-key": _SIGSTORE,
        "--sign-passphrase-file": "the list is not signed, each image in it is; rl image sign --all docker://LIST",
    },
}
#: commands that rl does not have → reason
COMMANDS: dict[str, str] = {
    "container checkpoint": _CRIU,
    "container restore": _CRIU,
    "image scp": "rl copies no images to other hosts or users; rl save -o FILE IMAGE there, rl load -i FILE here",
    "system connection": "rl works on this machine's own files and has no remote client; run it by ssh: ssh HOST rl …",
    "system service": "the REST API is not built yet; programs can call the command, most verbs have --format json",
}


def command(name: str) -> str:
    """Why rl has no command *name* (``container checkpoint``), or none of its group; "" for any other."""
    words = name.split()
    return next((COMMANDS[part] for n in range(len(words), 0, -1) if (part := " ".join(words[:n])) in COMMANDS), "")


def flags(name: str) -> dict[str, str]:
    """flag → reason, of the command *name*."""
    return FLAGS.get(name, {})


def error(names: tuple[str, ...], flag: str) -> UnsupportedError | None:
    """The error for *flag* of the command that has all these *names*; None where it is not one of the refused."""
    for name in names:
        reason = flags(name).get(flag)
        if reason:
            from rl.errors import UnsupportedError

            what, _, hint = reason.partition("; ")
            return UnsupportedError(f"{flag} is not available: {what}", hint)
    return None


def command_error(name: str) -> UnsupportedError | None:
    """The error for the command *name*; None where it is not one of the refused."""
    reason = command(name)
    if not reason:
        return None
    from rl.errors import UnsupportedError

    what, _, hint = reason.partition("; ")
    return UnsupportedError(f"`{name}` is not available: {what}", hint)
