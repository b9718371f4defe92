"""rl search: repositories of registries by a word, or the tags of one. Source: podman-search(1)."""

from __future__ import annotations

from rl.errors import RlError, UsageError
from rl.image import reference, registries_conf
from rl.image.connect import Registries
from rl.image.search import search as ask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

_LIMIT = 25


def search(
    engine: Engine, term: str, *, limit: int = 0, filters: list[str] | None = None, list_tags: bool = False, **how: Any
) -> list[dict[str, Any]]:
    """Rows with Index, Name, Description, Stars, Official, Automated, or (*list_tags*) Name and Tag.

    ``REGISTRY/WORD`` asks that registry, a word alone those that short names are looked for in. Raises UsageError,
    RegistryError; one of several registries that fails is a warning.
    """
    from rl.engine.manifest.lists import connection, puller_for, reference_of

    conditions = _conditions(filters or [])
    if list_tags:
        if filters:
            raise UsageError("search: --filter and --list-tags cannot be combined", "leave one of them out")
        name = reference_of(term)
        puller = puller_for(engine, how)
        try:
            tags = puller.tags(name.without_tag())
        finally:
            puller.close()
        return [{"Name": name.name, "Tag": tag} for tag in tags[: limit or _LIMIT]]
    registries, word = _where(engine, term)
    conf = registries_conf.load(engine.paths)
    connections = Registries(engine.paths, connection(how), engine.warn)
    rows: list[dict[str, Any]] = []
    failed: RlError | None = None
    try:
        for registry in registries:
            place = reference.Reference(registry, word or "library", "latest")
            try:
                found = ask(connections.repository(conf.endpoints(place)[-1]), word, limit or _LIMIT)
            except RlError as error:
                failed = error
                if len(registries) > 1:
                    engine.warn(f"{registry}: {error.message}")
                continue
            rows += _rows(registry, [item for item in found if _fits(item, conditions)][: limit or _LIMIT])
    finally:
        connections.close()
    if failed and not rows:
        raise failed
    return rows


def _where(engine: Engine, term: str) -> tuple[list[str], str]:
    """(registries, word)."""
    first, slash, rest = term.partition("/")
    if slash and ("." in first or ":" in first or first == reference.LOCALHOST):
        return [first], rest
    found = registries_conf.load(engine.paths).search
    if not found:
        raise UsageError(
            f"search {term}: no registry is named, and none is configured for short names",
            f"rl search docker.io/{term}; or unqualified-search-registries in ~/.config/containers/registries.conf",
        )
    return list(found), term


def _rows(registry: str, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    index = ".".join(registry.split(":")[0].split(".")[-2:]) if not registry[0].isdigit() else registry
    rows = []
    for item in found:
        name = item["name"] if "/" in item["name"] or registry != reference.DOCKER else f"library/{item['name']}"
        rows.append({
            "Index": index, "Name": f"{registry}/{name}", "Description": item["description"],
            "Stars": item["star_count"], "Official": "[OK]" if item["is_official"] else "",
            "Automated": "[OK]" if item["is_automated"] else "",
        })
    return rows


def _conditions(filters: list[str]) -> dict[str, Any]:
    """stars=N, is-official, is-automated. Raises UsageError."""
    found: dict[str, Any] = {}
    for text in filters:
        key, equals, value = text.partition("=")
        if key == "stars" and value.isdecimal():
            found["stars"] = int(value)
        elif key in ("is-official", "is-automated") and value in ("", "true", "false") and (value or not equals):
            found[key] = value != "false"
        else:
            raise UsageError(f"search --filter {text}: not a filter", "stars=NUMBER, is-official, is-automated")
    return found


def _fits(item: dict[str, Any], conditions: dict[str, Any]) -> bool:
    if item["star_count"] < conditions.get("stars", 0):
        return False
    return all(
        item[key.replace("-", "_")] == conditions[key] for key in ("is-official", "is-automated") if key in conditions
    )
