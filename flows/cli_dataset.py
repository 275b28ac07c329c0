"""``marlin dataset …``: look into a dataset, compare its versions, tend them, take videos out."""

from __future__ import annotations

import json
from dataclasses import astuple
from pathlib import Path
from typing import Annotated

import typer

from flows.command import Door, command
from infra.errors import ConfigError
from pipeline.dataset.config import (
    CompactConfig,
    DatasetConfig,
    DiffConfig,
    RemoveConfig,
    ReportConfig,
    StoreConfig,
    VacuumConfig,
)

app = typer.Typer(help="Look into a dataset, compare and tend its versions, take videos out.")
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
    """Write one page: funnel, rejections, videos, contact sheet with regions, licences."""
    from pipeline.dataset.reader import open_dataset
    from pipeline.dataset.report import write_report

    print(write_report(open_dataset(cfg.dataset, cfg.version), cfg.out, max_faces=cfg.max_faces))


@command(app, DATASET)
def versions(cfg: StoreConfig) -> None:
    """List the versions: what each holds, when and why it was made."""
    from infra.storage import open_storage
    from pipeline.dataset.history import version_rows
    from pipeline.dataset.versions import require_dataset

    storage = open_storage(cfg.dataset)
    require_dataset(storage)
    for row in version_rows(storage):
        if row.counts is None:
            print(f"{row.version:>6}  removed; version {row.successor} takes its place")
            continue
        held = ", ".join(f"{count} {name}" for name, count in row.counts.model_dump().items())
        print(f"{row.version:>6}  {row.created}  {held}  ({row.why})")


@command(app, DATASET, Door("before", "A"), Door("after", "B"))
def diff(cfg: DiffConfig) -> None:
    """Name the clips and videos that version B has otherwise than version A."""
    from pipeline.dataset.history import diff_versions
    from pipeline.dataset.reader import open_dataset

    found = diff_versions(open_dataset(cfg.dataset, cfg.before), open_dataset(cfg.dataset, cfg.after))
    for name, count in found.counts().items():
        print(f"{count:>8} {name.replace('_', ' ')}")
        entries = getattr(found, name)
        for entry in entries[: cfg.shown]:
            if isinstance(entry, str):
                print(f"         {entry}")
                continue
            video, track, start, end = astuple(entry)
            print(f"         {video[:16]} track {track}, frames {start} to {end - 1}")
        if count > cfg.shown:
            print(f"         … and {count - cfg.shown} more (shown={count} names all)")


@command(app, DATASET)
def compact(cfg: CompactConfig) -> None:
    """Merge the small shards of many nights into few, with exactly the same clips, as a new version."""
    from infra.progress import Progress
    from infra.storage import open_storage
    from pipeline.dataset.compact import compact_dataset
    from pipeline.scratch import scratch_folder

    with Progress("compact", None, unit="shard") as progress:

        def seen(done: int, of: int) -> None:
            progress.total = of
            progress.update(1)

        done = compact_dataset(
            open_storage(cfg.dataset), scratch_folder(), shard_bytes=cfg.shard_mb * 1_000_000, on_group=seen
        )
    what = f"new version {done.version}" if done.new else f"nothing to merge; still version {done.version}"
    print(f"{cfg.dataset}: {what} ({done.before} shards before, {done.after} now)")


@command(app, DATASET, Door("grace_hours", "HOURS", "--grace-hours"), Door("keep", "N", "--keep"))
def vacuum(
    cfg: VacuumConfig,
    dry_run: Annotated[bool, typer.Option("--dry-run", metavar="", help="Only tell; nothing is deleted.")] = False,
) -> None:
    """Delete what no version lists, once it is old enough; nothing that an interrupted ingest needs."""
    from infra.storage import open_storage
    from pipeline.dataset.vacuum import vacuum_dataset

    done = vacuum_dataset(open_storage(cfg.dataset), grace_s=3600 * cfg.grace_hours, keep=cfg.keep, dry_run=dry_run)
    for key in done.keys:
        print(key)
    dropped = f", and versions {', '.join(map(str, done.dropped))}" if done.dropped else ""
    print(f"{len(done.keys)} objects of {done.bytes / 1e6:.1f} MB{dropped} {'would go' if dry_run else 'are gone'}")


@command(app, DATASET, Door("videos", "VIDEO…"))
def remove(
    cfg: RemoveConfig,
    runs: Annotated[
        list[str] | None, typer.Option("--runs", metavar="DIR", help="Folder below which runs lie; may be repeated.")
    ] = None,
) -> None:
    """Take videos out for good: shards, older versions, features and pictures; they never come back.

    What networks have learnt cannot be taken out of them: weights that saw a video are named.
    """
    from infra.storage import open_storage
    from pipeline.dataset.remove import remove_videos
    from pipeline.scratch import scratch_folder

    roots = [path for pattern in runs or cfg.runs for path in _folders(pattern, named=bool(runs))]
    done = remove_videos(open_storage(cfg.dataset), cfg.videos, scratch_folder(), runs=roots)
    what = f"new version {done.version}" if done.new else f"version {done.version} holds none of it"
    print(f"{cfg.dataset}: {', '.join(done.names)} taken out, {done.clips} clips; {what}")
    if done.buried:
        print(f"versions {', '.join(map(str, done.buried))} held it and cannot be read any more")
    for title, entries in (
        ("deleted", done.deleted),
        ("has learnt from it", done.learnt),
        ("still says its name", done.mentions),
    ):
        for entry in entries:
            print(f"{title}: {entry}")


def _folders(pattern: str, *, named: bool) -> list[Path]:
    """The folders that a path or pattern means; a default that is not there is left out, a named one is an error."""
    path = Path(pattern)
    found = sorted(Path().glob(pattern)) if "*" in pattern and not path.is_absolute() else [path]
    folders = [each for each in found if each.is_dir()]
    if named and not folders:
        raise ConfigError(f"--runs {pattern} is no folder; name the folder below which the run folders lie")
    return folders
