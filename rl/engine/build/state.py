"""Where a stage stands after some of its instructions: what the next one builds upon. Crosses processes as JSON."""

from __future__ import annotations

import copy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_FIELDS = ("annotations", "base_history", "base_name", "config", "created", "descriptors", "document", "history",
           "image_id", "key", "layers", "manifest", "snapshots", "triggers")


class State:
    """The result of a stage so far.

    ``key``: the cache's parent key; ``image_id``, ``manifest`` (its digest), ``layers`` (diff ids), ``descriptors``,
    ``base_name``: of the base
    image; ``document``: its os, architecture, variant, author; ``config``: the configuration; ``history``: of the base
    (``base_history`` entries) and of the steps; ``snapshots``: what steps wrote, oldest first; ``created``: time of the
    last step; ``triggers``:
    ONBUILD of the base; ``annotations`` of its manifest.
    """

    __slots__ = _FIELDS

    def __init__(self) -> None:
        self.key = ""
        self.base_history = 0
        self.base_name = ""
        self.image_id = ""
        self.manifest = ""
        self.created = ""
        self.layers: list[str] = []
        self.descriptors: list[dict[str, Any]] = []
        self.document: dict[str, Any] = {}
        self.config: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        self.snapshots: list[str] = []
        self.triggers: list[str] = []
        self.annotations: dict[str, str] = {}

    def export(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _FIELDS}

    @classmethod
    def restore(cls, record: dict[str, Any]) -> State:
        state = cls()
        for name in _FIELDS:
            setattr(state, name, record[name])
        return state

    def child(self) -> State:
        """Where a stage begins that is built upon this one."""
        state = State.restore(copy.deepcopy(self.export()))
        state.triggers = list(state.config.pop("OnBuild", None) or [])
        return state
