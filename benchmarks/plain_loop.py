"""What everybody writes first: decode, detect on every full frame, crop, JPEG. What ingestion is held to."""

from __future__ import annotations

from pathlib import Path

import cv2
import decord
import numpy as np
import torch
from facexlib.detection.retinaface import RetinaFace

from pipeline.faces.boxes import NO_FACES
from pipeline.faces.facexlib_weights import load_weights
from pipeline.media.clock import StageClock
from pipeline.rows import Detections

SIZE, MARGIN, JPEG_QUALITY = 224, 1.3, 95


class PlainLoop:
    """facexlib's own ``detect_faces`` at full resolution on every frame of a video."""

    def __init__(self, weights: Path) -> None:
        """Load RetinaFace mobile0.25 from facexlib's own weight file."""
        self._net = RetinaFace(network_name="mobile0.25", device="cpu")
        load_weights(self._net, weights)
        self._net.eval()

    @torch.no_grad()
    def __call__(self, video: Path, out: Path, clock: StageClock) -> list[tuple[int, Detections]]:
        """Write one JPEG a face and frame into ``out``; return the faces of every frame."""
        found: list[tuple[int, Detections]] = []
        with clock("decode"):
            reader = decord.VideoReader(str(video), num_threads=1)
        for number in range(len(reader)):
            with clock("decode"):
                frame_HWC = reader[number].asnumpy()[..., ::-1]
            with clock("detect"):
                faces = self._net.detect_faces(np.ascontiguousarray(frame_HWC))
            found.append((number, _detections(faces)))
            for row, box_4 in enumerate(faces[:, :4]):
                with clock("crop"):
                    crop_HWC = _crop(frame_HWC, box_4)
                with clock("encode"):
                    _, jpeg = cv2.imencode(".jpg", crop_HWC, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
                with clock("write"):
                    (out / f"{number:06d}-{row}.jpg").write_bytes(jpeg.tobytes())
        return found


def _detections(faces_N15: np.ndarray) -> Detections:
    if not len(faces_N15):
        return NO_FACES
    return Detections(faces_N15[:, :4], faces_N15[:, 4], faces_N15[:, 5:].reshape(-1, 5, 2))


def _crop(frame_HWC: np.ndarray, box_4: np.ndarray) -> np.ndarray:
    half = float((box_4[2:] - box_4[:2]).max()) * MARGIN / 2
    middle_2 = (box_4[:2] + box_4[2:]) / 2
    x0, y0, x1, y1 = np.round([*(middle_2 - half), *(middle_2 + half)]).astype(int)
    height, width = frame_HWC.shape[:2]
    left, top, right, bottom = max(0, x0), max(0, y0), min(width, x1), min(height, y1)
    inside_HWC = frame_HWC[top:bottom, left:right]
    square_HWC = cv2.copyMakeBorder(inside_HWC, top - y0, y1 - bottom, left - x0, x1 - right, cv2.BORDER_CONSTANT)
    return cv2.resize(square_HWC, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
