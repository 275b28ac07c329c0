"""A contact sheet: face crops of a dataset, each beside itself with its regions painted on."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from pipeline.dataset.format import REGION_STRIDE
from pipeline.dataset.reader import DatasetReader
from pipeline.faces.overlay import overlay_regions
from pipeline.media.decode import decode_clip

TILE = 160
GAP = 6
COLUMNS = 4
_PAPER = 246


def contact_sheet(reader: DatasetReader, *, max_faces: int = 24) -> tuple[bytes, list[str]] | None:
    """Return (PNG, the name and track of each face row by row), or None for a version without clips.

    Clips are drawn evenly over the tracks of the whole version, the same ones each time. Each is shown by its middle
    frame that has a region map: the stored crop, and the crop with its regions.
    """
    chosen = list(_spread(_one_clip_a_track(reader), max_faces))
    if not chosen:
        return None
    pairs, names = [], []
    for unit, row in chosen:
        clip = reader.read_clip(unit, row)
        middle = len(clip.regions) // 2
        crop = decode_clip(clip.mp4, [middle * REGION_STRIDE])[0]
        painted = overlay_regions(crop, clip.regions[middle])
        pairs.append(np.hstack([_tile(crop), _tile(painted)]))
        names.append(f"{clip.meta.name} (track {clip.meta.track})")
    done, png = cv2.imencode(".png", cv2.cvtColor(_grid(pairs), cv2.COLOR_RGB2BGR))
    if not done:
        raise ValueError("the contact sheet could not be encoded as PNG")
    return png.tobytes(), names


def _one_clip_a_track(reader: DatasetReader) -> list[tuple[str, int]]:
    """(unit, row) of the longest clip of every track, in the order of keys."""
    found: dict[tuple[str, int], tuple[int, str, int]] = {}
    for entry in reader.shards:
        table = reader.manifest(entry.unit).select(["video", "track", "frames"]).to_pydict()
        for row, (video, track, frames) in enumerate(zip(table["video"], table["track"], table["frames"], strict=True)):
            best = found.get((video, track))
            if best is None or frames > best[0]:
                found[video, track] = (frames, entry.unit, row)
    return [(unit, row) for _, (_, unit, row) in sorted(found.items())]


def _spread(clips: list[tuple[str, int]], count: int) -> Iterator[tuple[str, int]]:
    shown = min(count, len(clips))
    yield from (clips[index * len(clips) // shown] for index in range(shown))


def _tile(image_HWC: np.ndarray) -> np.ndarray:
    return cv2.resize(image_HWC, (TILE, TILE), interpolation=cv2.INTER_AREA)


def _grid(pairs: list[np.ndarray]) -> np.ndarray:
    height, width = pairs[0].shape[:2]
    columns = min(COLUMNS, len(pairs))
    rows = -(-len(pairs) // columns)
    sheet = np.full((rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, 3), _PAPER, np.uint8)
    for index, pair in enumerate(pairs):
        top, left = (GAP + (index // columns) * (height + GAP), GAP + (index % columns) * (width + GAP))
        sheet[top : top + height, left : left + width] = pair
    return sheet
