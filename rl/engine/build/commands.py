"""RUN, understood: the command, its environment and mounts, its place in the cache.

Called by rl.engine.build.steps; what runs it is rl.engine.build.running.
"""

from __future__ import annotations

from rl.engine.build import runmounts
from rl.engine.build.copying import make_workdir
from rl.engine.build.running import RunSpec
from rl.engine.spec.environment import DEFAULT_PATH
from rl.errors import NotFoundError, StepFailedError, UsageError
from rl.image.containerfile import configure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.build.runmounts import RunMount
    from rl.engine.build.state import State
    from rl.engine.build.steps import Hands, Step, Walk
    from rl.image.containerfile import Instruction

_NETWORKS = ("default", "none", "host")
#: Where the script of a heredoc with an interpreter line is, for as long as it runs.
SCRIPT = "/dev/pipes/heredoc"


def run(walk: Walk, instruction: Instruction) -> Step:
    """The step of a RUN. Raises ContainerfileError, Incomplete."""
    from rl.engine.build.steps import Step

    command, script = _command(walk, instruction)
    mounts = _mounts(walk, instruction)
    network = walk.word(instruction, instruction.flag("network", "default"))
    if network not in _NETWORKS:
        raise instruction.flag_error("network", f"--network={network}", f"it is one of {', '.join(_NETWORKS)}")
    insecure = _insecure(walk, instruction)
    arguments = walk.scope.for_run()
    material: list[Any] = [
        "RUN", command, script, sorted(arguments.items()), network, insecure, walk.settings.run_key,
        [[*mount.words(), _origin_key(walk, instruction, mount)] for mount in mounts],
    ]
    step = Step(_label(walk.scope.shown(), instruction), material)
    step.shown = instruction.text

    def files(hands: Hands, state: State) -> str:
        spec = RunSpec(command, _environment(walk, arguments), walk.workdir(), state.config.get("User") or "")
        spec.script, spec.mounts, spec.network, spec.insecure = script, mounts, network, insecure
        spec.secrets, spec.stdin = walk.settings.secrets, walk.settings.stdin
        for mount in mounts:
            if mount.kind in ("bind", "cache") and (mount.kind == "bind" or mount.origin):
                mount.source_root = hands.path(mount.origin)

        def change(root: str) -> None:
            make_workdir(root, spec.workdir, spec.user)
            hands.run(root, spec)

        try:
            return hands.write(state, change)
        except StepFailedError as error:
            if walk.settings.debug_shell:
                spec.argv, spec.script, spec.terminal = configure.shell_of(state.config)[:1], "", True
                hands.debug(state, spec)
            else:
                error.hint = "--debug-shell opens a shell in the files as they were before it"
            raise

    step.files = files
    return step


def _command(walk: Walk, instruction: Instruction) -> tuple[list[str], str]:
    """(argument vector, script that it executes or "")."""
    if instruction.json is not None:
        if not instruction.json:
            raise instruction.error("RUN []: no command")
        return list(instruction.json), ""
    shell = configure.shell_of(walk.state.config)
    heredocs = instruction.heredocs
    if len(heredocs) == 1 and len(instruction.rest.split()) == 1 and instruction.rest.startswith("<<"):
        text = heredocs[0].text
        if text.startswith("#!"):
            return [SCRIPT], text
        return [*shell, text], ""
    return [*shell, _with_heredocs(instruction)], ""


def _with_heredocs(instruction: Instruction) -> str:
    """The command as its shell wants it: with the text of its heredocs behind it."""
    text = instruction.rest
    for heredoc in instruction.heredocs:
        text += f"\n{heredoc.text}{heredoc.name}"
    return text


def _label(arguments: dict[str, str], instruction: Instruction) -> str:
    """``created_by``: the arguments, then the instruction as it stands, its flags included."""
    text = instruction.text[len(instruction.keyword):].strip()
    for heredoc in instruction.heredocs:
        text += f"\n{heredoc.text}{heredoc.name}"
    given = " ".join(f"{name}={value}" for name, value in sorted(arguments.items()))
    return (f"|{len(arguments)} {given} " if arguments else "") + f"/bin/sh -c {text}"


def _environment(walk: Walk, arguments: dict[str, str]) -> list[str]:
    """ENV counts before ARG, both before what the caller's own proxy settings are."""
    found = {"PATH": DEFAULT_PATH, **walk.settings.host_proxies, **walk.scope.proxies(), **arguments, **walk.scope.env}
    return [f"{name}={value}" for name, value in found.items()]


def _mounts(walk: Walk, instruction: Instruction) -> list[RunMount]:
    found = []
    for flag in instruction.flags:
        if flag.name != "mount":
            continue
        try:
            found.append(runmounts.parse(walk.word(instruction, flag.value), walk.workdir()))
        except UsageError as error:
            raise instruction.error(error.message, error.hint, flag.at) from None
    return found


def _origin_key(walk: Walk, instruction: Instruction, mount: RunMount) -> str:
    """What a mount shows, for the cache: the files of a context, the stage or image."""
    if mount.kind not in ("bind", "cache") or (mount.kind == "cache" and not mount.origin):
        return ""
    tree = walk.origins.context(mount.origin)
    if tree is None:
        return walk.origins.key(mount.origin)
    try:
        return tree.gather([mount.source or "."]).digest()
    except NotFoundError as error:
        raise instruction.error(error.message, error.hint) from None


def _insecure(walk: Walk, instruction: Instruction) -> bool:
    value = walk.word(instruction, instruction.flag("security", "sandbox"))
    if value not in ("sandbox", "insecure"):
        raise instruction.flag_error("security", f"--security={value}", "it is sandbox or insecure")
    if value == "insecure" and "security.insecure" not in walk.settings.allow:
        raise instruction.flag_error(
            "security", "--security=insecure is not allowed by this build", "rl build --allow security.insecure"
        )
    return value == "insecure"
