"""A dataset version as pages of a report: its counts, every video and what became of it, the faces, the terms."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from infra.errors import StorageError
from infra.html import Facts, Figure, Funnel, Paragraph, Section, Table, page
from pipeline.dataset.contact_sheet import contact_sheet
from pipeline.dataset.reader import DatasetReader
from pipeline.dataset.show import video_rows
from pipeline.dataset.versions import flat_settings, live_versions

MAX_ROWS = 500
"""Videos shown in the table; a report stays a page."""


def report_sections(reader: DatasetReader, *, max_faces: int = 24) -> list[Section]:
    """Return the sections of a dataset's report: counts, videos, cost, faces, how it was made.

    Args:
        reader: the version to report on.
        max_faces: tracks on the contact sheet.
    """
    rows = video_rows(reader)
    return [_funnel(reader, rows), _videos(rows), _cost(reader, rows), _faces(reader, max_faces), _making(reader)]


def write_report(reader: DatasetReader, path: str | Path, *, max_faces: int = 24) -> Path:
    """Write the report as one self-contained HTML file and return its path.

    Raises:
        StorageError: the file cannot be written.
    """
    target = Path(path)
    version = reader.version
    text = page(
        "Face clips",
        f"{reader.storage.uri}, version {version.version}, {version.created}",
        report_sections(reader, max_faces=max_faces),
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.part")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(target)
    except OSError as error:
        raise StorageError(f"the report cannot be written to {target}: {error.strerror or error}") from error
    return target


def _funnel(reader: DatasetReader, rows: list[dict[str, Any]]) -> Section:
    counts = reader.version.counts
    with_clips = sum(row["clips"] > 0 for row in rows)
    rejects = Counter(row["reject"] for row in rows if row["reject"])
    filtered: Counter[str] = Counter()
    for row in rows:
        filtered.update(row["filtered"])
    total = {name: sum(row[name] for row in rows) for name in ("decoded", "detected", "tracks")}
    steps = [
        ("videos", len(rows), f"{with_clips} gave clips{_reasons(rejects, 'rejected')}"),
        ("frames", total["decoded"], "decoded"),
        ("frames with a face", total["detected"], _share(total["detected"], total["decoded"])),
        ("tracks", total["tracks"], f"before filters{_reasons(filtered, 'filtered')}"),
        ("tracks kept", total["tracks"] - filtered.total(), ""),
        ("clips", counts.clips, f"{counts.frames:,} frames in {counts.shards} shards{_copies(rows)}"),
    ]
    blocks: list[Any] = [Funnel(steps)]
    if rejects or filtered:
        lost = [("video", reason, count) for reason, count in sorted(rejects.items())]
        lost += [("track", reason, count) for reason, count in sorted(filtered.items())]
        blocks.append(Table(["what", "reason", "how many"], lost, "What was left out, and why"))
    return Section("From videos to clips", "Every video that was listed, and where it went.", blocks)


def _reasons(counter: Counter[str], verb: str) -> str:
    named = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in sorted(counter.items()))
    return f"; {verb}: {named}" if named else ""


def _copies(rows: list[dict[str, Any]]) -> str:
    copies = sum(row["duplicates"] for row in rows)
    return f"; left out as near copies: {copies}" if copies else ""


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} % of the frames" if whole else ""


def _videos(rows: list[dict[str, Any]]) -> Section:
    head = ["video", "size", "fps", "frames", "with a face", "tracks", "clips", "result", "seconds", "labels"]
    table = [
        (
            row["name"],
            f"{row['width']}×{row['height']}" if row["width"] else None,
            row["fps"],
            row["decoded"],
            row["detected"],
            row["tracks"],
            row["clips"],
            _result(row),
            round(sum(row["seconds"].values()), 1),
            ", ".join(f"{name}: {value}" for name, value in sorted(row["labels"].items())),
        )
        for row in rows[:MAX_ROWS]
    ]
    more = f"The first {MAX_ROWS} of {len(rows)} videos. " if len(rows) > MAX_ROWS else ""
    return Section("Videos", f"{more}Seconds are those of all stages together, on one worker.", [Table(head, table)])


def _result(row: dict[str, Any]) -> str:
    if row["reject"]:
        detail = f" ({row['detail']})" if row["detail"] else ""
        return f"rejected: {row['reject'].replace('_', ' ')}{detail}"
    filtered = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in sorted(row["filtered"].items()))
    return f"clips; tracks left out: {filtered}" if filtered else "clips"


def _cost(reader: DatasetReader, rows: list[dict[str, Any]]) -> Section:
    seconds: Counter[str] = Counter()
    for row in rows:
        seconds.update(row["seconds"])
    total, frames = seconds.total(), sum(row["decoded"] for row in rows)
    table = [
        (stage, round(spent, 1), f"{100 * spent / total:.0f} %", round(1000 * spent / frames, 2) if frames else None)
        for stage, spent in seconds.most_common()
        if spent
    ]
    read, written = sum(row["bytes"] for row in rows), int(reader.version.units.numbers("tar_bytes").sum())
    facts = [
        ("seconds of all workers", round(total, 1)),
        ("frames per worker's second", round(frames / total, 1) if total else None),
        ("bytes of the videos", f"{read:,}"),
        ("bytes of the shards", f"{written:,}"),
    ]
    head = ["stage", "seconds", "share", "ms per frame"]
    intro = "Wall seconds that the workers spent on each stage; waiting, listing and writing shards are not in them."
    return Section("What it cost", intro, [Facts(facts), Table(head, table, "Seconds by stage")])


def _faces(reader: DatasetReader, max_faces: int) -> Section:
    sheet = contact_sheet(reader, max_faces=max_faces)
    intro = "One frame of each track: the stored crop, and the same crop with its facial regions."
    if sheet is None:
        return Section("Faces", intro, [Paragraph("This version holds no clip.")])
    png, names = sheet
    return Section("Faces", intro, [Figure(png, f"{len(names)} faces, row by row: {'; '.join(names)}")])


def _making(reader: DatasetReader) -> Section:
    version = reader.version
    knows = (
        "The embedded back-end (CenterFace, dlib's 68 points) knows no hair: no cell carries that label."
        if version.faces == "embedded"
        else "The production back-end (facexlib)."
    )
    facts = [
        ("version", version.version),
        ("parent", version.parent),
        ("published", version.created),
        ("recipe", version.recipe_digest),
        ("face back-end", version.faces),
        ("licences of the videos", "; ".join(version.source_licences)),
    ]
    licences = [(part.part, part.licence, part.source, part.sha256[:16]) for part in version.licences]
    history = []
    for other in live_versions(reader.storage):
        counts = other.counts
        history.append((other.version, other.created, counts.videos, counts.clips, counts.frames, counts.shards))
    settings = [(name, str(value)) for name, value in flat_settings(version.recipe).items()]
    return Section(
        "How it was made",
        knows,
        [
            Facts(facts),
            Table(["weights", "licence", "source", "sha256"], licences, "Weights that made the data, and their terms"),
            Table(["version", "published", "videos", "clips", "frames", "shards"], history, "Versions of this dataset"),
            Table(["setting", "value"], settings, "Recipe"),
        ],
    )
