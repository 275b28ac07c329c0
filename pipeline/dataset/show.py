"""A dataset version in numbers: what ``marlin dataset show`` prints."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from typing import Any

from pipeline.dataset.reader import DatasetReader
from pipeline.sources.standin import standin_digest


def video_rows(reader: DatasetReader) -> list[dict[str, Any]]:
    """Return one row for each distinct video (columns of ``VIDEO_COLUMNS``), JSON columns parsed, sorted by name.

    A video that was treated again in a later unit counts once, with its latest outcome; so does one whose bytes could
    not be had at first (but for addresses of which a query's values are not stored, since nobody can tell which it is).
    """
    latest: dict[str, dict[str, Any]] = {}
    for entry in reader.version.units:
        rows = reader.videos(entry.unit).to_pylist()
        for row in rows:
            parsed = {name: json.loads(row[name]) for name in ("filtered", "seconds", "labels")}
            latest[row["video"]] = row | parsed
        for row in rows:
            standin = standin_digest(row["place"])
            if row["video"] != standin:
                latest.pop(standin, None)
    return sorted(latest.values(), key=lambda row: (row["name"], row["video"]))


def summary(reader: DatasetReader) -> dict[str, Any]:
    """Return the version's totals.

    ``version``, ``videos`` (distinct digests with a clip; copies count once), ``clips``, ``shards``, ``frames`` (of the
    clips), ``rejects`` {reason: videos}, ``filtered`` {reason: tracks}, ``labels`` {column: {value: videos}}, counting
    videos with a clip.
    """
    rows = video_rows(reader)
    filtered: Counter[str] = Counter()
    labels: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        filtered.update(row["filtered"])
        if row["clips"]:
            for column, value in row["labels"].items():
                labels[column][str(value)] += 1
    counts = reader.version.counts
    return {
        "version": reader.version.version,
        "videos": sum(row["clips"] > 0 for row in rows),
        "clips": counts.clips,
        "shards": counts.shards,
        "frames": counts.frames,
        "rejects": _sorted(Counter(row["reject"] for row in rows if row["reject"])),
        "filtered": _sorted(filtered),
        "labels": {column: _sorted(values) for column, values in sorted(labels.items())},
    }


def _sorted(counter: Counter[str]) -> dict[str, int]:
    return {name: counter[name] for name in sorted(counter)}
