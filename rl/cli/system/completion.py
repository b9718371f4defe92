"""`rl completion`: what a shell needs to complete rl's command lines."""

from __future__ import annotations

from rl.cli import output
from rl.errors import RlError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "bash|fish|zsh"
ARGUMENTS = (1, 1)
INTERSPERSED = True
COMPLETE = "shell"
STATELESS = True
OPTIONS = (("-f --file", "value", "PATH", "Write the script to this file instead of standard output"),)
HELP = """Print the completion script for a shell.

bash: rl completion bash > ~/.local/share/bash-completion/completions/rl; fish: rl completion fish
> ~/.config/fish/completions/rl.fish; zsh: rl completion zsh > a directory of $fpath, as _rl.
"""


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.cli.clicked import completion_script

    shell = arguments[0]
    if shell not in ("bash", "fish", "zsh"):
        raise UsageError(f"{shell!r} is not a shell whose completion is known", "use bash, fish or zsh")
    script = completion_script(shell)
    if not options.get("file"):
        output.write(script + "\n")
        return 0
    try:
        with open(options["file"], "w", encoding="utf-8") as file:
            file.write(script + "\n")
    except OSError as error:
        raise RlError(f"write {options['file']}: {error.strerror}") from None
    return 0
