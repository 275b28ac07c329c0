"""``marlin dataset …``: look into a dataset, compare its versions, tend them, take videos out."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from flows.command import Door, command
from infra.paths import found_folders
from infra.storage import open_storage
from pipeline.dataset.config import (
    CompactConfig,
    DatasetConfig,
    DiffConfig,
    RemoveConfig,
    ReportConfig,
    VacuumConfig,
    VersionsConfig,
)

app = typer.Typer(help="Look into a dataset, and look after its versions.")
DATASET = Door("dataset", "DATASET")
VERSION = Door("version", "N", "--version")


@command(app, DATASET, VERSION)
def show(
    cfg: DatasetConfig,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="One line of JSON, for programs.")] = False,
) -> None:
    """Say what a dataset version holds."""
    from pipeline.dataset.reader import open_dataset
    from pipeline.dataset.show import summary

    facts = summary(open_dataset(cfg.dataset, cfg.version))
    if as_json:
        print(json.dumps(facts, ensure_ascii=False))
        return
    labels = facts.pop("labels")
    for name, value in (facts | labels).items():
        text = ", ".join(f"{count} {key}" for key, count in value.items()) if isinstance(value, dict) else value
        print(f"{name:>14}  {text if text not in ('', None) else '–'}")


@command(app, DATASET, VERSION)
def verify(cfg: DatasetConfig) -> None:
    """Check every digest, count and member; exit code 1 and the reasons when something is wrong."""
    from infra.progress import Progress
    from pipeline.dataset.reader import open_dataset
    from pipeline.dataset.verify import verify_dataset

    reader = open_dataset(cfg.dataset, cfg.version)
    with Progress("verify", len(reader.version.units), unit="unit") as progress:
        problems = verify_dataset(reader, lambda unit: progress.update(1))
    for problem in problems:
        print(problem)
    if problems:
        raise typer.Exit(1)
    print(f"{cfg.dataset}: version {reader.version.version} is whole ({len(reader.shards)} shards)")


@command(app, DATASET, Door("out", "HTML", "--out"), VERSION)
def report(cfg: ReportConfig) -> None:
    """Write one page: counts from listed to stored, rejections, videos, contact sheet with regions, licences."""
    from pipeline.dataset.reader import open_dataset
    from pipeline.dataset.report import write_report

    print(write_report(open_dataset(cfg.dataset, cfg.version), cfg.out, max_faces=cfg.max_faces))


@command(app, DATASET)
def versions(cfg: VersionsConfig) -> None:
    """List the versions: when and why each was made, from which, and what it holds."""
    from pipeline.dataset.history import version_rows

    print(f"{'version':>7}  {'parent':>6}  {'made':<25}  {'why':<8}{'videos':>9}{'clips':>10}{'shards':>8}")
    for row in version_rows(open_storage(cfg.dataset)):
        if row.counts is None:
            print(f"{row.version:>7}  removed; version {row.successor} takes its place")
            continue
        counts = f"{row.counts.videos:>9}{row.counts.clips:>10}{row.counts.shards:>8}"
        print(f"{row.version:>7}  {row.parent or '–':>6}  {row.created:<25}  {row.why:<8}{counts}")


@command(app, DATASET, Door("before", "A"), Door("after", "B"))
def diff(
    cfg: DiffConfig,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Every clip and video, as JSON.")] = False,
) -> None:
    """Say which clips and videos version B has otherwise than version A."""
    from pipeline.dataset.history import diff_versions
    from pipeline.dataset.reader import open_dataset

    after = open_dataset(cfg.dataset, cfg.after)
    before = open_dataset(cfg.dataset, cfg.before or after.version.parent or after.version.version)
    found = diff_versions(before, after)
    if as_json:
        print(json.dumps(asdict(found)))
        return
    print(f"version {before.version.version} → {after.version.version} ({after.version.why})")
    for name, count in found.counts().items():
        print(f"{count:>9}  {name.replace('_', ' ')}")


@command(app, DATASET, Door("shard_mb", "MB", "--shard-mb"))
def compact(cfg: CompactConfig) -> None:
    """Merge small shards into few: a new version with exactly the same clips. `vacuum` deletes the old shards."""
    from infra.progress import Progress
    from infra.scratch import scratch_folder
    from pipeline.dataset.compact import compact_dataset
    from pipeline.dataset.versions import require_dataset

    storage = open_storage(cfg.dataset)
    require_dataset(storage)  # or a bar is drawn for a folder that is none
    with Progress("compact", None, unit="shard") as progress:
        done = compact_dataset(
            storage,
            scratch_folder(),
            shard_bytes=cfg.shard_mb * 1_000_000,
            on_group=lambda made, due: progress.update(1, f"of {due}"),
        )
    what = f"new version {done.version}" if done.new else f"nothing to merge; still version {done.version}"
    print(f"{cfg.dataset}: {what}, {done.before} → {done.after} shards")


@command(app, DATASET, Door("grace_hours", "H", "--grace-hours"), Door("keep", "N", "--keep"))
def vacuum(
    cfg: VacuumConfig,
    dry_run: Annotated[bool, typer.Option("--dry-run", metavar="", help="Tell what would go, and stop.")] = False,
) -> None:
    """Delete what no version lists and no unfinished ingest needs."""
    from pipeline.dataset.vacuum import vacuum_dataset

    done = vacuum_dataset(open_storage(cfg.dataset), grace_s=cfg.grace_hours * 3600, keep=cfg.keep, dry_run=dry_run)
    for key in done.keys:
        print(key)
    verb = "would be" if dry_run else "were"
    if done.dropped:
        print(f"versions {', '.join(map(str, done.dropped))} {verb} dropped")
    print(f"{len(done.keys)} objects, {done.bytes / 1e6:.1f} MB, {verb} deleted")


@command(app, DATASET, Door("videos", "VIDEO…"), Door("runs", "DIR", "--runs", needed=False))
def remove(
    cfg: RemoveConfig,
    registry: Annotated[
        str, typer.Option("--registry", metavar="REGISTRY", help="Registry whose encoders are looked at, too.")
    ] = "",
) -> None:
    """Take videos out for good, with all that was made of them; no crawl brings them back (docs/takedown.md).

    If it dies, the same command finishes it.
    """
    from infra.scratch import scratch_folder
    from pipeline.dataset.remove import remove_videos

    folders = found_folders(cfg.runs)
    done = remove_videos(open_storage(cfg.dataset), cfg.videos, scratch_folder(), runs=folders)
    what = f"new version {done.version}" if done.new else f"version {done.version} stays"
    print(f"{cfg.dataset}: {what}, {done.clips} clips are gone; the digests are in removed/")
    if done.buried:
        print(f"removed with it: versions {', '.join(map(str, done.buried))}")
    for path in done.deleted:
        print(f"deleted {path}")
    for path in done.learnt:
        print(f"learnt from it, and cannot unlearn it: {path}")
    for line in _learnt_encoders(registry, cfg.dataset) if registry else ():
        print(f"learnt from it, and cannot unlearn it: {line}")
    for path in done.mentions:
        print(f"still says its name: {path}")


def _learnt_encoders(uri: str, dataset: str) -> list[str]:
    """Encoders of a registry that learnt from a version which cannot be read any more."""
    from flows.registry import Registry, learnt_from
    from pipeline.dataset.versions import list_versions, live_versions

    registry, storage = Registry(uri), open_storage(dataset)
    gone = set(list_versions(storage)) - {version.version for version in live_versions(storage)}
    live = registry.live()
    return [
        f"{registry.storage.uri}/{encoder.key} (version {encoder.number}{', live' if live == encoder else ''})"
        for encoder in learnt_from(registry.encoders(), storage.uri, gone)
    ]
