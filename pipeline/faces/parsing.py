"""Region parsing by facexlib's networks, trained on CelebAMask-HQ's 19 classes and mapped to LaPa's 11."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from facexlib.parsing.bisenet import BiSeNet
from facexlib.parsing.parsenet import ParseNet
from torch import nn

from infra.device import pick_device
from pipeline.config import FacexlibFaces
from pipeline.faces.facexlib_weights import fetch_weights, load_weights
from pipeline.faces.regions import Region

INPUT_SIZE = 512
"""Side of the picture that the networks were trained on."""
BATCH = 4

# The 19 classes in each network's own order. What LaPa does not know is background, as are ears and neck, which LaPa
# does not count as skin. Spectacles are the exception: CelebAMask-HQ gives them the pixels of the eyes behind them, so
# they count as eyes. Brows and eyes get their side afterwards.
_BISENET_CLASSES = (
    "background skin brow brow eye eye spectacles ear ear earring nose"
    " mouth upper_lip lower_lip neck necklace cloth hair hat"
)
_PARSENET_CLASSES = (
    "background skin nose spectacles eye eye brow brow ear ear mouth"
    " upper_lip lower_lip hair hat earring necklace neck cloth"
)
_REGION_OF = {
    "skin": Region.SKIN,
    "spectacles": Region.LEFT_EYE,
    "brow": Region.LEFT_BROW,
    "eye": Region.LEFT_EYE,
    "nose": Region.NOSE,
    "upper_lip": Region.UPPER_LIP,
    "mouth": Region.INNER_MOUTH,
    "lower_lip": Region.LOWER_LIP,
    "hair": Region.HAIR,
}


def lapa_table(classes: str) -> np.ndarray:
    """Return uint8 (19,): the LaPa label of each class, brows and eyes all on the left side."""
    return np.array([_REGION_OF.get(name, Region.BACKGROUND) for name in classes.split()], np.uint8)


@dataclass(frozen=True, slots=True)
class ParsingModel:
    """How a network is built, what it wants to see (mean and deviation of RGB in [0, 1]), what its classes mean."""

    build: Callable[[], nn.Module]
    mean_3: tuple[float, float, float]
    deviation_3: tuple[float, float, float]
    table_19: np.ndarray


MODELS = {
    "bisenet": ParsingModel(
        lambda: BiSeNet(num_class=19), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), lapa_table(_BISENET_CLASSES)
    ),
    "parsenet": ParsingModel(
        lambda: ParseNet(in_size=INPUT_SIZE, out_size=INPUT_SIZE, parsing_ch=19),
        (0.5, 0.5, 0.5),
        (0.5, 0.5, 0.5),
        lapa_table(_PARSENET_CLASSES),
    ),
}


class NetworkParser:
    """Parses face crops on a CPU or GPU. A map depends on its own crop alone."""

    def __init__(self, cfg: FacexlibFaces) -> None:
        """Fetch and load the weights.

        Raises:
            WeightsError: the weights cannot be had or do not fit.
        """
        self.name: str = cfg.parser
        self._model = MODELS[cfg.parser]
        self._device = pick_device(cfg.device, "faces.device")
        self._net = self._model.build()
        load_weights(self._net, fetch_weights(cfg.parser, cfg.weights))
        self._net.eval().requires_grad_(False).to(self._device)

    def parse(self, crops_RHWC: np.ndarray, landmarks_R52: np.ndarray) -> np.ndarray:
        """Return LaPa label maps, uint8 (R, H, W), of uint8 RGB crops with five landmarks each, in crop pixels."""
        classes = [self._classes(crops_RHWC[at : at + BATCH]) for at in range(0, len(crops_RHWC), BATCH)]
        if not classes:
            return np.zeros(crops_RHWC.shape[:3], np.uint8)
        labels_RHW = self._model.table_19[np.concatenate(classes)]
        return np.stack([with_sides(labels, points) for labels, points in zip(labels_RHW, landmarks_R52, strict=True)])

    @torch.inference_mode()
    def _classes(self, crops_RHWC: np.ndarray) -> np.ndarray:
        """Return the network's classes, uint8 (R, H, W), at the size of the crops."""
        height, width = crops_RHWC.shape[1:3]
        large_RHWC = np.stack([cv2.resize(crop, (INPUT_SIZE, INPUT_SIZE)) for crop in crops_RHWC])
        input_RCHW = torch.from_numpy(large_RHWC).to(self._device).permute(0, 3, 1, 2).float() / 255
        mean, deviation = (
            torch.tensor(values, device=self._device).view(1, 3, 1, 1)
            for values in (self._model.mean_3, self._model.deviation_3)
        )
        logits_RCHW = self._net((input_RCHW - mean) / deviation)[0]
        classes_RHW = logits_RCHW.argmax(dim=1).to(torch.uint8).cpu().numpy()
        return np.stack([cv2.resize(c, (width, height), interpolation=cv2.INTER_NEAREST) for c in classes_RHW])


def with_sides(labels_HW: np.ndarray, landmarks_52: np.ndarray) -> np.ndarray:
    """Give brows and eyes their side, the person's, by which half of the face they lie in.

    CelebAMask-HQ's own "left" and "right" are not documented as the person's or the viewer's, and networks mix them up
    on turned heads; the two eyes of the face detector decide instead.

    Args:
        labels_HW: uint8 LaPa labels with brows and eyes on either side.
        landmarks_52: five points, right eye first, then left, in pixels of the map.

    Returns:
        uint8 (H, W), a new map.
    """
    right_eye, left_eye = landmarks_52[0].astype(np.float64), landmarks_52[1].astype(np.float64)
    axis, middle = left_eye - right_eye, (left_eye + right_eye) / 2
    y_H1, x_1W = np.ogrid[: labels_HW.shape[0], : labels_HW.shape[1]]
    is_right_HW = (x_1W - middle[0]) * axis[0] + (y_H1 - middle[1]) * axis[1] < 0
    sided_HW = labels_HW.copy()
    for left, right in ((Region.LEFT_BROW, Region.RIGHT_BROW), (Region.LEFT_EYE, Region.RIGHT_EYE)):
        is_part_HW = (labels_HW == left) | (labels_HW == right)
        sided_HW[is_part_HW] = np.where(is_right_HW[is_part_HW], right, left)
    return sided_HW
