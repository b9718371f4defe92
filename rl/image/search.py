"""Asking a registry which repositories it has: the search of Docker's index, else the registry's own catalog.

Called by rl.engine.search. Source: Docker Registry HTTP API v1, "Search"; OCI distribution specification, "Listing
Repositories" (an extension that registries may leave out).
"""

from __future__ import annotations

from urllib.parse import urlencode

from rl.config.jsonio import loads
from rl.errors import RegistryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.image.registry import Repository

_LARGEST = 16 << 20
_PAGE = 1000
_PAGES = 50


def search(repository: Repository, term: str, limit: int) -> list[dict[str, Any]]:
    """Results for *term* from the registry of *repository*: name, description, star_count, is_official, is_automated.

    Raises RegistryError, AuthenticationError.
    """
    registry = repository.registry
    query = urlencode({"q": term, "n": limit or 25})
    with registry.request(f"/v1/search?{query}", "") as response:
        if response.status == 200:
            try:
                found = loads(response.read(_LARGEST).decode())["results"]
                return [_result(item) for item in found if isinstance(item, dict) and isinstance(item.get("name"), str)]
            except (ValueError, KeyError, TypeError):
                pass  # a registry that answers everything: ask it for its catalog
    return _catalog(repository, term)


def _result(item: dict[str, Any]) -> dict[str, Any]:
    stars = item.get("star_count")
    return {
        "name": item["name"], "description": str(item.get("description") or ""),
        "star_count": stars if isinstance(stars, int) else 0, "is_official": bool(item.get("is_official")),
        "is_automated": bool(item.get("is_automated")),
    }


def _catalog(repository: Repository, term: str) -> list[dict[str, Any]]:
    registry = repository.registry
    found: list[dict[str, Any]] = []
    path = f"/v2/_catalog?n={_PAGE}"
    for _ in range(_PAGES):
        with registry.request(path, "registry:catalog:*") as response:
            if response.status in (404, 405):
                raise RegistryError(f"{registry.host} cannot be searched", "name the image, or --list-tags of it")
            if response.status != 200:
                raise repository.failure(f"search {registry.host}", response)
            try:
                names = loads(response.read(_LARGEST).decode())["repositories"] or []
            except (ValueError, KeyError, TypeError):
                raise RegistryError(f"{registry.host} answers a search with nonsense", "is this a registry?") from None
            link = response.header("link")
        found += [_result({"name": name}) for name in names if isinstance(name, str) and term in name]
        if not link or 'rel="next"' not in link or not names:
            break
        path = f"/v2/_catalog?{urlencode({'n': _PAGE, 'last': str(names[-1])})}"
    return found
