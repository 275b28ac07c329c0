"""Faces and their scores drawn into the frames that they were found in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from model.adapt.task import Kind

Colour = tuple[int, int, int]
TimedFrame = tuple[float, np.ndarray]
"""Seconds, and the frame that is shown then, uint8 RGB (H, W, 3)."""
ACCENT: Colour = (64, 156, 255)
REAL_TO_FAKE: tuple[Colour, ...] = ((46, 160, 67), (240, 180, 40), (218, 54, 51))
"""RGB of scores 0, 0.5 and 1 where a high one is a warning."""
PANEL: Colour = (24, 26, 30)
MOST_BARS = 3
"""Outputs shown for each face: those with the highest mean."""
TEXT_SHARE, LEAST_TEXT = 32, 9
"""Text is a share of the frame's shorter side, and at least so many pixels high."""


@dataclass(frozen=True)
class ScoredFace:
    """A face through the video.

    track: its number; None is the whole frame. start, boxes_F4: the first of its frames, and its box in each, x0 y0 x1
    y1 in pixels; None for the whole frame. spans_N2: first frame and frame after the last of its windows. scores_NK:
    theirs.
    """

    track: int | None
    start: int
    boxes_F4: np.ndarray | None
    spans_N2: np.ndarray
    scores_NK: np.ndarray

    def box(self, frame: int) -> tuple[int, int, int, int] | None:
        """Return the box in a frame, whole pixels; None where there is none."""
        if self.boxes_F4 is None or not 0 <= frame - self.start < len(self.boxes_F4):
            return None
        x0, y0, x1, y1 = np.round(self.boxes_F4[frame - self.start]).astype(int).tolist()
        return x0, y0, x1, y1

    def scores(self, frame: int) -> np.ndarray:
        """Return the scores (K,) at a frame: the mean of the windows that hold it, or else of those nearest to it."""
        away_N = np.maximum(self.spans_N2[:, 0] - frame, frame - self.spans_N2[:, 1] + 1).clip(0)
        scores_K: np.ndarray = self.scores_NK[away_N == away_N.min()].mean(axis=0)
        return scores_K


def annotate(
    frames: Iterable[TimedFrame], faces: Sequence[ScoredFace], outputs: Sequence[str], kind: Kind,
    *, warns: bool,
) -> Iterator[TimedFrame]:  # fmt: skip
    """Draw the box, number and scores of each face into frames, uint8 RGB (H, W, 3), that come with their seconds.

    Args:
        frames: all of the video, from its first.
        faces: what is drawn.
        outputs: names of the K scores; the highest ``MOST_BARS`` of each face are shown.
        kind: of the task; scores of a regression have no bar.
        warns: whether the first score goes from green to red; otherwise one colour serves all.
    """
    shown = {face.track: np.argsort(-face.scores_NK.mean(axis=0), kind="stable")[:MOST_BARS] for face in faces}
    for number, (seconds, frame_HWC) in enumerate(frames):
        image = Image.fromarray(frame_HWC)
        for face in faces:
            box = face.box(number)
            if box is None and face.boxes_F4 is not None:
                continue
            scores_K = face.scores(number)
            colour = blend(scores_K[0]) if warns else ACCENT
            rows = [(outputs[k], float(scores_K[k])) for k in shown[face.track]]
            _draw(image, box, "" if face.track is None else f"face {face.track}", rows, colour, kind != "regression")
        yield seconds, np.asarray(image)


def blend(score: float) -> Colour:
    """Return the colour of a score in [0, 1], from green over amber to red."""
    red, green, blue = (
        int(np.interp(score, np.linspace(0, 1, len(REAL_TO_FAKE)), channel))
        for channel in zip(*REAL_TO_FAKE, strict=True)
    )
    return red, green, blue


def _draw(
    image: Image.Image, box: tuple[int, int, int, int] | None, head: str, rows: Sequence[tuple[str, float]],
    colour: Colour, bars: bool,
) -> None:  # fmt: skip
    """Draw a box and, above it or else inside its upper edge, a panel with a line for the name and for each score."""
    size = max(min(image.size) // TEXT_SHARE, LEAST_TEXT)
    font, draw = _font(size), ImageDraw.Draw(image)
    edge = max(size // 5, 2)
    if box is not None:
        draw.rectangle(box, outline=colour, width=edge)
    lines = [head] if head else []
    lines += [f"{name} {score:.2f}" for name, score in rows]
    step, inset = round(size * 1.4), size // 3
    width = max(round(max(map(font.getlength, lines))) + 2 * inset, 6 * size)
    height = step * len(lines)
    x, y = (0, 0) if box is None else (box[0], box[1] - height if box[1] >= height else box[1])
    x, y = max(min(x, image.width - width), 0), max(min(y, image.height - height), 0)
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill=PANEL)
    for line, text in enumerate(lines):
        top = y + line * step
        score = rows[line - len(lines)][1] if line >= len(lines) - len(rows) else 0.0
        if bars and (filled := round(score * width)):
            draw.rectangle((x, top + edge, x + filled - 1, top + step - 1 - edge), fill=colour)
        draw.text((x + inset, top + step / 2), text, font=font, fill="white", anchor="lm")


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings: labels of a csv may be in any language."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)
