"""rl image tree: the layers of an image, base first, and the names of the images that end at each."""

from __future__ import annotations

from rl.config.jsonio import read_json
from rl.image import store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.model import ImageRecord
    from rl.engine.context import Engine


class Layer:
    """``size`` unpacked bytes, ``names`` of images whose topmost layer it is, ``images`` built upon it."""

    __slots__ = ("children", "diff_id", "names", "size")

    def __init__(self, diff_id: str, size: int) -> None:
        self.diff_id = diff_id
        self.size = size
        self.names: list[str] = []
        self.children: list[Layer] = []


def tree(engine: Engine, name: str, *, whatrequires: bool = False) -> tuple[list[ImageRecord], list[Layer]]:
    """The image's records, and its layers base first; *whatrequires*: the tree of what is built upon its topmost layer.

    Raises NoSuchImageError.
    """
    record = store.find(engine.paths, name)
    records = store.list_images(engine.paths)[0]
    names: dict[tuple[str, ...], list[str]] = {}
    for other in records:
        if other["name"]:
            names.setdefault(tuple(other["layers"]), []).append(other["name"])
    own = [record, *(other for other in records if other["id"] == record["id"] and other["name"] != record["name"])]
    chain = tuple(record["layers"])
    if not whatrequires:
        return own, [_layer(engine, chain[: count + 1], names) for count in range(len(chain))]
    below: set[tuple[str, ...]] = set()
    for other in records:
        below.update(tuple(other["layers"][: count + 1]) for count in range(len(other["layers"])))
    if not chain:
        return own, []
    return own, [_above(engine, chain, below, names)]


def _layer(engine: Engine, chain: tuple[str, ...], names: dict[tuple[str, ...], list[str]]) -> Layer:
    try:
        size = int(read_json(f"{engine.paths.layers}/{chain[-1][7:]}/layer.json")["size"])
    except (OSError, ValueError, KeyError, TypeError):
        size = 0
    layer = Layer(chain[-1], size)
    layer.names = sorted(names.get(chain, []))
    return layer


def _above(
    engine: Engine, chain: tuple[str, ...], chains: set[tuple[str, ...]], names: dict[tuple[str, ...], list[str]]
) -> Layer:
    """The layer at the end of *chain* with all that is built upon it."""
    layer = _layer(engine, chain, names)
    for other in sorted(chains):
        if len(other) == len(chain) + 1 and other[: len(chain)] == chain:
            layer.children.append(_above(engine, other, chains, names))
    return layer
