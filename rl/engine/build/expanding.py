"""The text of a heredoc, its variables replaced where its name is not in quotes."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.engine.build.steps import Walk
    from rl.image.containerfile import Instruction
    from rl.image.containerfile.lines import Heredoc


def heredoc_text(walk: Walk, instruction: Instruction, heredoc: Heredoc) -> str:
    """What the file of a heredoc holds. Raises ExpansionError."""
    if not heredoc.expand:
        return heredoc.text
    return walk.expander(instruction, raw=True).word(heredoc.text)
