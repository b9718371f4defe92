"""rl build: an image from a Containerfile.

The steps: settings → context and Containerfile → graph → scheduler (workers) → result. Called by rl.cli.image.build.
"""

from __future__ import annotations

import os

from rl.config.jsonio import dumps
from rl.engine import events
from rl.engine.build import cache as building
from rl.engine.build import contexts, exporting, result
from rl.engine.build.cache import Cache, Work, key_of
from rl.engine.build.gathering import Tree
from rl.engine.build.graph import Graph
from rl.engine.build.scheduler import Scheduler
from rl.engine.build.scopes import PROXIES, platform_arguments
from rl.engine.build.settings import Settings
from rl.engine.build.state import State
from rl.engine.collect import collect_pending, discard_later
from rl.engine.containers import now
from rl.engine.spec.environment import DEFAULT_PATH
from rl.errors import RlError, UsageError
from rl.image import store
from rl.image.containerfile import configure, lint, parse
from rl.image.content import adding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rl.engine.build.remotecache import Source
    from rl.engine.context import Engine

    Event = dict[str, Any]


def build(engine: Engine, where: str, options: dict[str, Any], tell: Callable[[Event], None]) -> str:
    """Build what the context *where* holds; the id of the image. *options*: the flags of `rl build`, by name.

    *tell* takes events, each with a ``kind`` (rl.engine.build.progress). Raises ContainerfileError, StepFailedError,
    UsageError, NotFoundError, RlError. For several platforms the ids, a line each.
    """
    if len(options.get("platform", [])) < 2 or options.get("check"):
        return _Build(engine, options, tell).run(where)
    from rl.engine.build import several

    several.check(where, options)
    return several.build_each(engine, options, lambda one, say: _Build(engine, one, say).run(where), tell)


#: Outputs that need no image.
_PLAIN = ("local", "tar")
#: The build argument that stands for the directive # check=.
_RULES = "BUILDKIT_DOCKERFILE_CHECK"
_REGISTRY = ("tls_verify", "authfile", "creds", "cert_dir", "retry", "retry_delay")


class _Build:
    def __init__(self, engine: Engine, options: dict[str, Any], tell: Callable[[Event], None]) -> None:
        self._engine = engine
        self._options = options
        self._tell = tell
        self._images: dict[tuple[str, str], State] = {}
        self._trees: dict[str, Tree] = {}
        self.settings = Settings(engine, options)

    def run(self, where: str) -> str:
        paths = self._engine.paths
        building.sweep_work(paths)
        self._cache = Cache(paths)
        self._work = work = Work(self._cache)
        try:
            with adding(paths):
                return self._run(where)
        finally:
            for tree in self._trees.values():
                if tree.memory:
                    tree.memory.save()
                os.close(tree.fd)
            work.close()
            collect_pending(self._engine)

    def _run(self, where: str) -> str:
        engine, settings, files = self._engine, self.settings, list(self._options.get("file", []))
        context = contexts.open_context(where, self._work, stdin_taken="-" in files)
        data, name = contexts.containerfile(context, files)
        graph = Graph(parse(data, name), settings)
        self._lint(graph)
        if self._options.get("check"):
            return ""
        if "cache_to" in self._options:
            from rl.engine.build.remotecache import repository

            for text in self._options["cache_to"]:
                repository(text, "--cache-to")
        ignorefile = self._options.get("ignorefile", "")
        self._trees[""] = tree = contexts.tree(engine.paths, context, files, ignorefile)
        scheduler = Scheduler(
            engine.paths, self._cache, settings, graph, tree, self._image, self._directory, self._work.path, self._tell
        )
        source = self._source()
        scheduler.remote = source
        try:
            state = scheduler.run()
        finally:
            if source:
                source.close()
        self._unused(scheduler.consumed)
        self._adjust(state)
        image_id = ""
        plain = settings.outputs and all(one.kind in _PLAIN for one in settings.outputs)
        if settings.tags or "manifest" in self._options or not plain:
            image_id = self._commit(state)
        for output in settings.outputs:
            self._output(state, output, image_id)
        if "cache_to" in self._options:
            self._keep(scheduler)
        if image_id and "metadata_file" in self._options:
            self._describe(image_id, self._options["metadata_file"])
        if self._options.get("manifest"):
            from rl.engine.manifest import lists

            lists.create(engine, self._options["manifest"], [image_id], amend=True)
        return image_id

    def _lint(self, graph: Graph) -> None:
        """Tell what is allowed in the Containerfile and unwise. Raises RlError with --check, or where it says so."""
        file, given = graph.file, self.settings.build_args.get(_RULES)
        rules = lint.rules_of(file, given)
        found = lint.check(file, rules, platform_arguments(self.settings.platform, self.settings.target))
        for one in found:
            self._engine.warn(f"{file.source.name}:{one.line}:{one.column}: {one.what} ({one.rule})")
        if found and (rules.error or self._options.get("check")):
            what = f"{file.source.name}: {len(found)} warning{'s' if len(found) > 1 else ''}"
            names = ",".join(sorted({one.rule for one in found}))
            raise RlError(what, f"mend them, or leave rules out: # check=skip={names}")

    def _registry(self) -> dict[str, Any]:
        keys = ("tls_verify", "authfile", "creds", "cert_dir")
        return {key: self._options[key] for key in keys if key in self._options}

    def _source(self) -> Source | None:
        """--cache-from."""
        if "cache_from" not in self._options:
            return None
        from rl.engine.build.remotecache import Source

        return Source(self._engine, self._cache, self._options["cache_from"], self._registry(), self._work.path)

    def _keep(self, scheduler: Scheduler) -> None:
        """--cache-to: all that the build has made, intermediate stages, too."""
        from rl.engine.build import remotecache

        for state in scheduler.states:
            result.layers(self._engine.paths, self._cache, self.settings.template["driver"], state)
        names = self._options["cache_to"]
        self._tell({"kind": "export", "text": f"writing the cache to {' '.join(names)}"})
        remotecache.write(self._engine, self._cache, names, scheduler.trail, self._registry())

    def _describe(self, image_id: str, path: str) -> None:
        """--metadata-file, in BuildKit's words."""
        record = store.find(self._engine.paths, f"sha256:{image_id}")
        document = {
            "containerimage.config.digest": f"sha256:{image_id}", "containerimage.digest": record["manifest"],
            "image.name": ",".join(self.settings.tags),
        }
        try:
            with open(path, "w", encoding="utf-8") as file:
                file.write(dumps(document) + "\n")
        except OSError as error:
            raise RlError(f"write {path}: {error.strerror}", "choose a place you may write to") from None

    def _output(self, state: State, output: exporting.Output, image_id: str) -> None:
        """One --output."""
        engine = self._engine
        self._tell({"kind": "export", "text": f"writing {output.dest or ' '.join(output.names)}"})
        if output.kind in _PLAIN:
            exporting.files(engine.paths, self._cache, state, output, self.settings.template["driver"])
        elif output.kind == "image":
            if output.push:
                from rl.engine.push import push

                how = {key: self._options[key] for key in _REGISTRY if key in self._options}
                for name in output.names:
                    push(engine, name, **how)
        else:
            from rl.engine.save import save

            names = self.settings.tags or [image_id]
            save(engine, names, 1 if output.dest == "-" else output.dest, format=exporting.ARCHIVES[output.kind])

    def _unused(self, consumed: set[str]) -> None:
        unused = sorted(set(self.settings.build_args) - consumed - PROXIES - {"SOURCE_DATE_EPOCH", _RULES})
        if unused:
            self._engine.warn(f"one or more build args were not consumed: [{' '.join(unused)}]")

    def _adjust(self, state: State) -> None:
        """Flags that change the image itself, after all instructions."""
        settings = self.settings
        if "os_version" in self._options:
            state.document["os.version"] = self._options["os_version"]
        if "os_feature" in self._options:
            state.document["os.features"] = self._options["os_feature"]
        for name in self._options.get("unsetenv", []):
            configure.unset_env(state.config, name)
        if settings.env:
            configure.set_env(state.config, settings.env)
        for name in self._options.get("unsetlabel", []):
            (state.config.get("Labels") or {}).pop(name, None)
        for name, value in settings.labels.items():
            configure.set_labels(state.config, {name: value})
            label = f'/bin/sh -c #(nop) LABEL "{name}"="{value}"'
            state.history.append({"created": state.created or now(), "created_by": label, "empty_layer": True})

    def _is_base(self, state: State) -> bool:
        """Whether nothing was added to the base: then the image is that one, with further names."""
        changing = ("env", "unsetenv", "unsetlabel", "annotation", "timestamp", "source_date_epoch", "squash_all",
                    "omit_history", "os_version", "os_feature")
        same = state.manifest and len(state.history) == state.base_history
        return bool(same and not any(self._options.get(name) for name in changing) and "format" not in self._options)

    def _commit(self, state: State) -> str:
        engine, settings = self._engine, self.settings
        self._tell({"kind": "commit", "names": settings.tags})
        discard_later(engine.paths)
        if self._is_base(state):
            manifest = state.manifest
        else:
            manifest = result.write(engine.paths, self._cache, settings, state, engine.warn, self._exported)
        image_id = ""
        for name in settings.tags or [""]:
            image_id = store.add(engine.paths, name, manifest)["id"]
            events.emit(engine.paths, "image", "build", image_id, name)
        self._tell({"kind": "image", "id": image_id, "names": settings.tags})
        return image_id

    def _exported(self, text: str) -> None:
        self._tell({"kind": "export", "text": text})

    # what stages begin with

    def _image(self, name: str, platform: str) -> State:
        """The state of an image; pulled first if the policy says so. "" is scratch."""
        key = (name, platform)
        if key not in self._images:
            self._images[key] = self._scratch(platform) if not name else self._known(name, platform)
        return self._images[key].child() if name else State.restore(self._images[key].export())

    def _scratch(self, platform: str) -> State:
        from rl.image import platforms

        wanted = (platforms.requested(platform) if platform else None) or self.settings.platform
        state = State()
        state.key = key_of("scratch", wanted)
        state.document = _document({"os": wanted[0], "architecture": wanted[1], "variant": wanted[2]})
        _with_path(state)
        return state

    def _known(self, name: str, platform: str) -> State:
        from rl.engine.pull import ensure_image

        how = {key: self._options[key] for key in _REGISTRY if key in self._options}
        if not platform and any(key in self._options for key in ("platform", "arch", "os", "variant")):
            platform = "/".join(part for part in self.settings.platform if part)
        record = ensure_image(
            self._engine, name, policy=self._options.get("pull", "missing"), platform=platform,
            quiet=bool(self._options.get("quiet")), **how,
        )
        document = store.config(self._engine.paths, record)
        manifest = store.manifest(self._engine.paths, record)
        state = State()
        state.key = key_of("image", record["id"])
        state.manifest = record["manifest"]
        state.image_id, state.base_name = record["id"], record["name"] or record["id"][:12]
        state.layers, state.descriptors = list(record["layers"]), list(manifest["layers"])
        state.document = _document(document)
        state.config = dict(document.get("config") or {})
        _with_path(state)
        state.history = [dict(entry) for entry in document.get("history") or []]
        state.base_history = len(state.history)
        state.created = document.get("created") or ""
        return state

    def _directory(self, name: str) -> Tree:
        """The files of a named context (--build-context)."""
        if name not in self._trees:
            value = self.settings.contexts[name.lower()]
            if value == "-":
                raise UsageError(f"--build-context {name}=-: standard input is for the main context")
            context = contexts.open_context(value, self._work)
            tree = contexts.tree(self._engine.paths, context, [], "")
            tree.label = f"the context {name}"
            self._trees[name] = tree
        return self._trees[name]


def _with_path(state: State) -> None:
    """Every image that is built says where its programs are, as those of Docker and Buildah."""
    if "PATH" not in configure.env_of(state.config):
        state.config["Env"] = [f"PATH={DEFAULT_PATH}", *(state.config.get("Env") or [])]


def _document(document: dict[str, Any]) -> dict[str, Any]:
    return {key: document[key] for key in ("architecture", "os", "variant", "author", "os.version", "os.features")
            if document.get(key)}
