"""COPY and ADD, understood: where from, what, whose, and their place in the cache.

Called by rl.engine.build.steps; what does it is rl.engine.build.copying, and rl.engine.build.adding for what ADD has
beside files of the context.
"""

from __future__ import annotations

import os
import posixpath

from rl.engine.build import copying
from rl.errors import RlError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.build.adding import Remote
    from rl.engine.build.gathering import Plan, Tree
    from rl.engine.build.state import State
    from rl.engine.build.steps import Hands, Step, Walk
    from rl.image.containerfile import Instruction

_INLINE_MODE = 0o644


class Copy:
    """One COPY or ADD, its words expanded.

    ``sources``: in ``origin`` ("" is the context); ``inline``: (name, text) of heredocs; ``remote``: URLs and git.
    """

    def __init__(self, walk: Walk, instruction: Instruction) -> None:
        words = walk.words(instruction)
        self.instruction = instruction
        self.destination = walk.absolute(words[-1])
        self.origin = walk.word(instruction, instruction.flag("from"))
        self.owner = walk.word(instruction, instruction.flag("chown"))
        mode = walk.word(instruction, instruction.flag("chmod"))
        try:
            self.mode = copying.Mode(mode) if mode else None
        except UsageError as error:
            raise instruction.flag_error("chmod", error.message, error.hint) from None
        self.exclude = [walk.word(instruction, pattern) for pattern in instruction.all("exclude")]
        self.parents = instruction.flag("parents") in ("true", "1")
        self.unpack = instruction.keyword == "ADD" and instruction.flag("unpack", "true") in ("true", "1")
        self.remote: list[Remote] = []
        self.inline: list[tuple[str, str]] = []
        self.sources: list[str] = []
        heredocs = {heredoc.name: heredoc for heredoc in instruction.heredocs}
        for raw, word in zip(instruction.words[:-1], words[:-1], strict=True):
            name = raw.removeprefix("<<").removeprefix("-").strip("\"'")
            if raw.startswith("<<") and name in heredocs:
                text = heredocs[name].text
                expanded = walk.expander(instruction, raw=True).word(text) if heredocs[name].expand else text
                self.inline.append((name, expanded))
            elif instruction.keyword == "ADD" and (found := self._remote(walk, word)):
                self.remote.append(found)
            elif not word:
                raise instruction.error("a source is empty", "is a variable in it not set?")
            else:
                self.sources.append(word)
        several = len(self.sources) + len(self.inline) + len(self.remote) > 1
        if several and not self.destination.endswith("/"):
            raise instruction.error(
                "with more than one source the destination must be a directory", f"write {words[-1]}/"
            )
        #: What a worker has gathered: by the second key, and by the copy itself.
        self.plan: Plan | None = None

    def _remote(self, walk: Walk, word: str) -> Remote | None:
        from rl.engine.build import adding

        checksum = walk.word(self.instruction, self.instruction.flag("checksum"))
        return adding.remote(self.instruction, word, checksum, walk.origins.fetched)

    def words(self) -> list[Any]:
        """What counts for the cache, beside what is copied."""
        instruction = self.instruction
        return [
            instruction.keyword, self.sources, self.destination, self.owner, instruction.flag("chmod"), self.exclude,
            self.parents, self.unpack, self.inline, [remote.words() for remote in self.remote],
        ]

    def gathered(self, tree: Tree) -> Plan:
        """The files. Raises ContainerfileError."""
        if self.plan is None:
            try:
                self.plan = tree.gather(self.sources, exclude=self.exclude, parents=self.parents)
            except RlError as error:
                raise self.instruction.error(error.message, error.hint) from None
        return self.plan


def copy(walk: Walk, instruction: Instruction) -> Step:
    """The step of a COPY or an ADD. Raises ContainerfileError, Incomplete."""
    from rl.engine.build.steps import Step

    what = Copy(walk, instruction)
    tree = walk.origins.context(what.origin)
    contents = [remote.identity() for remote in what.remote]
    if tree is not None and what.sources:
        plan = what.gathered(tree)
        contents.append(plan.digest())
        step = Step(_label(what, contents, plan), [*what.words(), contents])
    elif what.sources:
        origin = walk.origins.key(what.origin)
        step = Step(_label(what, [origin], None), [*what.words(), contents, "origin", origin])

        def second(hands: Hands) -> list[Any]:
            plan = what.gathered(hands.tree(what.origin))
            digest = plan.digest()
            step.label = _label(what, [*contents, digest], plan)
            return [*what.words(), contents, "files", digest]

        step.second = second
    else:
        step = Step(_label(what, contents, None), [*what.words(), contents])
    step.shown = instruction.text

    def files(hands: Hands, state: State) -> str:
        found = None
        if what.sources:
            found = what.gathered(tree if tree is not None else hands.tree(what.origin))

        def change(root: str) -> None:
            copying.make_workdir(root, walk.workdir(), state.config.get("User") or "")
            _write(what, found, root)

        return hands.write(state, change)

    step.files = files
    return step


def _label(what: Copy, contents: list[str], plan: Plan | None) -> str:
    """``created_by`` as Docker and Buildah write it: a digest in the place of names."""
    from hashlib import sha256

    digest = sha256("\n".join(contents).encode()).hexdigest()
    kind = "multi"
    if plan is not None and len(plan.items) == 1 and not what.remote:
        kind = "dir" if plan.items[0].is_directory else "file"
    elif len(what.remote) + len(what.inline) == 1 and not what.sources:
        kind = "file"
    return f"/bin/sh -c #(nop) {what.instruction.keyword} {kind}:{digest} in {what.destination} "


def _write(what: Copy, plan: Plan | None, root: str) -> None:
    """All of it into the files mounted at *root*."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        original = plan.tree.original if plan is not None else False
        owner: tuple[int, int] | None = None if original else (0, 0)
        if what.owner:
            owner = copying.owner_of(fd, what.owner)
        writer = copying.Writer(fd, owner, what.mode)
        if plan is not None:
            _files(what, plan, writer)
        for name, text in what.inline:
            place = posixpath.join(what.destination, name) if what.destination.endswith("/") else what.destination
            writer.data(place, text.encode(errors="surrogateescape"), _INLINE_MODE, 0)
        for remote in what.remote:
            remote.write(writer, what.destination, what.unpack)
    except RlError as error:
        raise what.instruction.error(error.message, error.hint) from None
    finally:
        os.close(fd)


def _files(what: Copy, plan: Plan, writer: copying.Writer) -> None:
    """Files of the context; local archives that ADD unpacks are no files."""
    if not what.unpack:
        writer.copy(plan, what.destination)
        return
    from rl.engine.build import adding

    archives = [item for item in plan.items if adding.is_archive(plan, item)]
    for item in archives:
        adding.unpack_item(plan, item, writer, what.destination)
    rest = [item for item in plan.items if item not in archives]
    if rest:
        into = what.destination if len(plan.items) == 1 else what.destination.rstrip("/") + "/"
        plan.items = rest
        writer.copy(plan, into)
