"""Where a thing comes from and what was made of it: video → clip → dataset version → weights → scores → who is live.

Nothing is kept for it: it is read from the dataset's tables, the runs' ``run.json`` and the registry.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.registry import Registry
from infra.errors import ConfigError
from infra.fetch import file_digest
from infra.run import RUN_FILE, Makers, RunRecord, find_runs
from infra.storage import open_storage
from pipeline.dataset.derived import is_dataset, version_of
from pipeline.dataset.reader import DatasetReader
from pipeline.dataset.versions import live_versions, load_version
from pipeline.places import named_path

_PREFIX = re.compile(r"[0-9a-f]{8,64}")


@dataclass(frozen=True, slots=True, order=True)
class Node:
    """One thing: its kind (video, clip, version, run, encoder, decision) and its name, which is unique within it."""

    kind: str
    name: str


@dataclass
class Lineage:
    """A graph of what was made of what. ``facts`` are words to show beside a node, ``aliases`` other names of it."""

    made: dict[Node, set[Node]] = field(default_factory=lambda: defaultdict(set))
    made_of: dict[Node, set[Node]] = field(default_factory=lambda: defaultdict(set))
    facts: dict[Node, str] = field(default_factory=dict)
    aliases: dict[Node, set[str]] = field(default_factory=lambda: defaultdict(set))

    def add(self, node: Node, fact: str = "", *aliases: str) -> Node:
        """Add a node."""
        self.facts.setdefault(node, fact)
        self.aliases[node] |= {node.name, *aliases}
        return node

    def link(self, origin: Node, result: Node) -> None:
        """Say that ``result`` was made of ``origin``."""
        self.made[origin].add(result)
        self.made_of[result].add(origin)

    def find(self, text: str) -> Node:
        """Return the node that ``text`` names, by name, alias or at least 8 digits of a digest.

        Raises:
            ConfigError: there is none, or several.
        """
        path = named_path(text)
        wanted = {text, file_digest(Path(path))} if Path(path).is_file() else {text, path}
        found = {node for node, names in self.aliases.items() if names & wanted}
        if not found and _PREFIX.fullmatch(text):
            found = {node for node, names in self.aliases.items() if any(_is_digest(name, text) for name in names)}
        if not found:
            raise ConfigError(
                f"nothing is known of {text!r}; give a video's name or digest, a clip's key, v3 for a dataset version, "
                "a run folder, a weight file, or registry:3 (and say where they are: --dataset, --runs, --registry)"
            )
        if len(found) > 1:
            raise ConfigError(f"{text!r} may be {', '.join(f'{n.kind} {n.name}' for n in sorted(found)[:5])}; say more")
        return found.pop()

    def tree(self, start: Node) -> dict[str, Any]:
        """Return the node with its origins and results, depth first, as plain values for JSON."""
        around = {"origins": self.made_of, "results": self.made}
        return self._facts(start) | {
            name: [self._facts(node) | {"steps": depth} for depth, node in list(self._walk(start, edges))[1:]]
            for name, edges in around.items()
        }

    def _facts(self, node: Node) -> dict[str, Any]:
        return {"kind": node.kind, "name": node.name, "facts": self.facts[node]}

    def lines(self, start: Node) -> Iterator[str]:
        """Yield the tree of origins above a node, then the node, then the tree of what was made of it."""
        above = list(self._walk(start, self.made_of))[1:]
        yield from (f"{'  ' * depth}↑ {self._shown(node)}" for depth, node in above)
        yield self._shown(start)
        yield from (f"{'  ' * depth}↓ {self._shown(node)}" for depth, node in list(self._walk(start, self.made))[1:])

    def _walk(self, start: Node, edges: dict[Node, set[Node]]) -> Iterator[tuple[int, Node]]:
        """Depth first; a node is shown where it is met first."""
        met, waiting = {start}, [(0, start)]
        while waiting:
            depth, node = waiting.pop()
            yield depth, node
            fresh = sorted(edges.get(node, set()) - met, reverse=True)
            met.update(fresh)
            waiting += [(depth + 1, other) for other in fresh]

    def _shown(self, node: Node) -> str:
        return f"{node.kind} {node.name}" + (f"  ({self.facts[node]})" if self.facts[node] else "")


def read_lineage(dataset: str, roots: Iterable[str | Path], registry: str, text: str) -> Lineage:
    """Read what is known.

    Args:
        dataset: URI of the dataset, empty to leave videos and clips out.
        roots: folders below which run folders lie.
        registry: URI of the registry, empty for none.
        text: what will be asked for. Clips are many: only those of videos that it may mean are added.
    """
    graph = Lineage()
    runs = find_runs(roots)
    _add_runs(graph, runs)
    if dataset:
        _add_dataset(graph, dataset, runs, text)
    if registry:
        _add_registry(graph, Registry(registry), runs)
    return graph


def _run_node(run: RunRecord) -> Node:
    return Node("run", str(run.folder))


def _add_runs(graph: Lineage, runs: list[RunRecord]) -> None:
    for run in runs:
        digests = [entry.digest for entry in run.outputs if entry.digest and len(entry.digest) == 64]
        graph.add(_run_node(run), run.kind, str(run.folder / RUN_FILE), *digests)
    makers = Makers(runs)
    for run in runs:
        for maker in makers.of_run(run):
            graph.link(_run_node(maker), _run_node(run))


def _add_dataset(graph: Lineage, dataset: str, runs: list[RunRecord], text: str) -> None:
    storage = open_storage(dataset)
    tables: dict[str, list[tuple[str, str, str, str]]] = {}
    clips: dict[str, list[tuple[str, str]]] = {}
    for version in live_versions(storage):
        reader = DatasetReader(storage, load_version(storage, version.version))
        node = _version_node(storage.uri, version.version)
        counts, units = version.counts, reader.version.units.column("unit")
        graph.add(node, f"{version.why}, {counts.videos} videos, {counts.clips} clips", f"v{version.version}")
        for unit in units:
            if unit not in tables:
                columns = reader.videos(unit).select(["video", "name", "place", "content"]).to_pydict().values()
                tables[unit] = list(zip(*columns, strict=True))
                pairs = reader.manifest(unit).select(["key", "video"]).to_pydict().values()
                clips[unit] = list(zip(*pairs, strict=True))
            for digest, name, place, content in tables[unit]:
                video = graph.add(Node("video", digest), name, name, place, content)
                graph.link(video, node)
        for unit in units:
            for key, digest in clips[unit]:
                if _is_asked(text, key, digest, graph.aliases[Node("video", digest)]):
                    clip = graph.add(Node("clip", key))
                    graph.link(Node("video", digest), clip)
                    graph.link(clip, node)
    for run in runs:
        for entry in (*run.inputs, *run.outputs):
            number = version_of(entry)
            if number is not None and is_dataset(run, entry.place, storage.uri):
                node = graph.add(_version_node(storage.uri, number), "", f"v{number}")
                pair = (node, _run_node(run)) if entry in run.inputs else (_run_node(run), node)
                graph.link(*pair)


def _is_asked(text: str, key: str, digest: str, names: set[str]) -> bool:
    return text == key or text in names or (len(text) >= 8 and digest.startswith(text))


def _version_node(uri: str, number: int) -> Node:
    return Node("version", f"{number} of {uri}")


def _add_registry(graph: Lineage, registry: Registry, runs: list[RunRecord]) -> None:
    live = registry.live()
    makers = {entry.digest: run for run in runs for entry in run.outputs if entry.digest}
    users: dict[str, list[RunRecord]] = defaultdict(list)
    for run in runs:
        for entry in run.inputs:
            users[entry.digest or ""].append(run)
    for encoder in registry.encoders():
        state = "live" if live and live.number == encoder.number else encoder.created
        node = graph.add(Node("encoder", f"registry:{encoder.number}"), state, encoder.sha256)
        if encoder.sha256 in makers:
            graph.aliases[_run_node(makers[encoder.sha256])].discard(encoder.sha256)
            graph.link(_run_node(makers[encoder.sha256]), node)
        else:  # the run folder is gone: the registry remembers
            graph.link(graph.add(_version_node(encoder.dataset, encoder.dataset_version)), node)
            if encoder.parent:
                graph.link(Node("encoder", f"registry:{encoder.parent}"), node)
        for run in users[encoder.sha256]:
            graph.link(node, _run_node(run))
    for decision in registry.decisions():
        node = graph.add(Node("decision", f"{decision.number}: {decision.action}"), f"{decision.at}, {decision.why}")
        graph.link(Node("encoder", f"registry:{decision.version}"), node)


def _is_digest(name: str, prefix: str) -> bool:
    return name.startswith(prefix) and _PREFIX.fullmatch(name) is not None
