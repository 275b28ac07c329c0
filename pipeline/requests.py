"""What a stage asks of its child process. Light, so that only the child loads decoders and detectors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.rows import SourceVideo


@dataclass(frozen=True, slots=True)
class Measure:
    """Asks for the length of a video in seconds (float)."""

    path: str


@dataclass(frozen=True, slots=True)
class Extract:
    """Asks for a video's clips in a tar; answered with its VideoOutcome. A reject leaves no tar worth keeping."""

    video: SourceVideo
    path: str
    tar: Path


@dataclass(frozen=True, slots=True)
class Parse:
    """Asks for the region maps of all clips of a tar; answered with the outcome, parsing seconds added."""

    clips: Path
    regions: Path
