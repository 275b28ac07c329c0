"""RetinaFace (Deng et al., 2019, arXiv:1905.00641): facexlib's network, our own loading, priors and decoding."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import cv2
import numpy as np
import torch
from facexlib.detection.retinaface import RetinaFace
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from infra.device import pick_device
from pipeline.config import FacexlibFaces
from pipeline.faces.boxes import NO_FACES, non_maximum_suppression, reduced_size
from pipeline.faces.facexlib_weights import fetch_weights, load_weights
from pipeline.rows import Detections

MEAN_BGR = np.array([104, 117, 123], np.float32)
VARIANCES = (0.1, 0.2)
ANCHORS = ((8, (16, 32)), (16, (64, 128)), (32, (256, 512)))
"""(stride, sides of the square anchors), in pixels of the reduced frame."""
NMS_IOU = 0.4
BATCH = 8
CPU_BATCH_PIXELS = 8 * 224 * 224
"""On a CPU a batch of more pixels leaves the caches: eight frames of 960x544 cost a third more each than one alone."""


class RetinaFaceDetector:
    """Finds faces on a CPU or GPU, in batches of key frames reduced to ``detect_long_side``.

    Differs from facexlib: batched at a reduced size, priors are computed once per frame size, normalisation is folded
    into the convolutions, and a call leaves no state behind.
    """

    def __init__(self, cfg: FacexlibFaces) -> None:
        """Fetch and load the weights.

        Raises:
            WeightsError: the weights cannot be had or do not fit.
        """
        self.name: str = cfg.detector
        self._long_side, self._threshold = cfg.detect_long_side, cfg.score_threshold
        self._device = pick_device(cfg.device, "faces.device")
        self._net = RetinaFace(network_name=cfg.detector.removeprefix("retinaface_"), device="cpu")
        load_weights(self._net, fetch_weights(cfg.detector, cfg.weights))
        self._net.eval().requires_grad_(False)
        fold_norms(self._net)
        self._net.to(self._device, memory_format=torch.channels_last)

    def detect(self, frames_FHWC: np.ndarray) -> list[Detections]:
        """Return the faces of each uint8 RGB frame (F, H, W, 3), best score first, in pixels of the full frame."""
        found: list[Detections] = []
        batch = BATCH
        if self._device.type == "cpu":
            width, height = reduced_size(frames_FHWC.shape[2], frames_FHWC.shape[1], self._long_side)
            batch = max(1, min(BATCH, CPU_BATCH_PIXELS // (width * height)))
        for start in range(0, len(frames_FHWC), batch):
            found += self._detect(frames_FHWC[start : start + batch])
        return found

    @torch.inference_mode()
    def _detect(self, frames_FHWC: np.ndarray) -> list[Detections]:
        _, height, width, _ = frames_FHWC.shape
        size = reduced_size(width, height, self._long_side)
        small_FHWC = np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames_FHWC])
        bgr_FHWC = torch.from_numpy(small_FHWC[..., ::-1] - MEAN_BGR)  # as it lies, this is channels last
        shifts_FA4, scores_FA2, points_FA10 = self._net(bgr_FHWC.permute(0, 3, 1, 2).to(self._device))
        outputs = (shifts_FA4.cpu().numpy(), scores_FA2[..., 1].cpu().numpy(), points_FA10.cpu().numpy())
        priors_A4 = anchor_boxes(*size)
        scale_2 = np.array([width / size[0], height / size[1]], np.float32)
        return [_decode(*each, priors_A4, self._threshold, scale_2) for each in zip(*outputs, strict=True)]


def fold_norms(net: nn.Module) -> None:
    """Fold each batch norm that follows a convolution into its weights, in place: equal up to rounding, less work.

    Goes by the order of children, which is the order of use in facexlib's and torchvision's networks. ``net`` must be
    in evaluation mode.
    """
    for module in net.modules():
        children = list(module.named_children())
        for (name, convolution), (norm_name, norm) in pairwise(children):
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(convolution, norm))
                setattr(module, norm_name, nn.Identity())


@lru_cache(maxsize=16)
def anchor_boxes(width: int, height: int) -> np.ndarray:
    """Return the prior boxes of a frame size in the network's order: float32 (A, 4), centre x y, width, height, pixels.

    Order: by stride, then row, column, anchor side.
    """
    levels = []
    for stride, sides in ANCHORS:
        y, x, side = np.meshgrid(
            (np.arange(-(-height // stride)) + 0.5) * stride,
            (np.arange(-(-width // stride)) + 0.5) * stride,
            np.asarray(sides, np.float64),
            indexing="ij",
        )
        levels.append(np.stack([x, y, side, side], axis=-1).reshape(-1, 4))
    priors_A4 = np.concatenate(levels).astype(np.float32)
    priors_A4.setflags(write=False)  # it is shared by all calls
    return priors_A4


def _decode(
    shifts_A4: np.ndarray,
    scores_A: np.ndarray,
    points_A10: np.ndarray,
    priors_A4: np.ndarray,
    threshold: float,
    scale_2: np.ndarray,
) -> Detections:
    above = np.flatnonzero(scores_A > threshold)
    if not len(above):
        return NO_FACES
    centre_N2, side_N2 = priors_A4[above, :2], priors_A4[above, 2:]
    middle_N2 = centre_N2 + shifts_A4[above, :2] * VARIANCES[0] * side_N2
    size_N2 = side_N2 * np.exp(shifts_A4[above, 2:] * VARIANCES[1])
    landmarks_N52 = centre_N2[:, None] + points_A10[above].reshape(-1, 5, 2) * VARIANCES[0] * side_N2[:, None]
    boxes_N4 = np.concatenate([middle_N2 - size_N2 / 2, middle_N2 + size_N2 / 2], axis=1) * np.tile(scale_2, 2)
    kept = non_maximum_suppression(boxes_N4, scores_A[above], NMS_IOU)
    return Detections(
        boxes_N4[kept].astype(np.float32),
        scores_A[above][kept].astype(np.float32),
        (landmarks_N52[kept] * scale_2).astype(np.float32),
    )
