"""Self-blended clips: a face blended with a transformed copy of itself through its own region mask.

Source: Shiohara and Yamasaki, "Detecting Deepfakes with Self-Blended Images", CVPR 2022. Differs: clips instead of
images (one draw a clip, so the fake is consistent in time), and the mask comes from the region maps of the dataset
instead of a landmark hull. Shapes: T frames, H, W pixels, C = 3 RGB, R region maps (one every 4 frames), h = w = 28.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from infra.errors import MediaError
from pipeline.dataset.format import REGION_STRIDE
from pipeline.faces.regions import GROUPS


def _bits(*groups: str) -> int:
    """Region bits of some groups of ``GROUPS`` together."""
    return sum(1 << region for group in groups for region in GROUPS[group])


FACE_BITS = _bits("skin", "left eye", "right eye", "nose", "mouth")
"""Labels that are exchanged in a deepfake: everything on the face, without hair and background."""
_AREAS = (
    FACE_BITS,
    _bits("left eye", "right eye", "nose", "mouth"),
    _bits("nose", "mouth"),
    _bits("left eye", "right eye", "nose"),
)
_AREA_SHARES = (0.5, 0.3, 0.1, 0.1)
_RAMP = 0.2
_GREY_C = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True, slots=True)
class Tone:
    """A change of colour and sharpness. Shifts are in grey levels of 255; 1.0 leaves gain and saturation alone.

    sharpness: positive sharpens (unsharp mask amount), negative blurs by halving the resolution that many times 2.
    """

    shift_C: tuple[float, float, float] = (0.0, 0.0, 0.0)
    gain: float = 1.0
    saturation: float = 1.0
    sharpness: float = 0.0


@dataclass(frozen=True, slots=True)
class BlendDraw:
    """Everything random about one self-blended clip: equal draws give equal clips.

    area: region bits that are exchanged; hull: fill them to their convex hull. dx, dy: translation of the source as
    a share of the side; scale: its resizing. elastic: displacement of the source, mask_elastic: of the mask, both as
    a share of the side (standard deviation). blur_in, blur_out: Gaussian blurs of the mask before and after its
    edge is moved by ``threshold``, as shares of the side. ratio: opacity of the blend. tone_on_source: whether
    ``tone`` changes the source or the target. common, jpeg: applied alike to the real and the fake clip.
    """

    area: int
    hull: bool
    dx: float
    dy: float
    scale: float
    elastic: float
    mask_elastic: float
    blur_in: float
    blur_out: float
    threshold: float
    ratio: float
    tone: Tone
    tone_on_source: bool
    common: Tone
    jpeg: int
    field_seed: int


@dataclass(frozen=True, slots=True)
class BlendedPair:
    """A real clip and the fake made of it: uint8 (T, H, W, 3) each, mask_THW float32 opacity in [0, 1]."""

    real_THWC: np.ndarray
    fake_THWC: np.ndarray
    mask_THW: np.ndarray


def has_face(regions_Rhw: np.ndarray) -> bool:
    """Whether any region map shows a face; a clip without one cannot be blended with itself."""
    return bool((regions_Rhw & FACE_BITS).any())


def self_blend(
    frames_THWC: np.ndarray, regions_Rhw: np.ndarray, seed: int, indices_T: Sequence[int] | None = None
) -> BlendedPair:
    """Make the real and the fake clip of one window; a pure function of its arguments.

    Args:
        frames_THWC: uint8 RGB frames of the window.
        regions_Rhw: uint16 region bits of the whole clip, map r belonging to frame 4r.
        seed: any non-negative integer; the whole clip uses one draw.
        indices_T: frame number within the clip of each frame; None means 0, 1, 2, …

    Raises:
        ValueError: no region map shows a face, or shapes do not fit.
    """
    if frames_THWC.ndim != 4 or frames_THWC.shape[-1] != 3 or frames_THWC.dtype != np.uint8:
        raise ValueError(f"frames must be uint8 (T, H, W, 3), not {frames_THWC.dtype} {frames_THWC.shape}")
    if not has_face(regions_Rhw):
        raise ValueError("no region map of this clip shows a face, so it cannot be blended with itself")
    indices_T = range(len(frames_THWC)) if indices_T is None else indices_T
    if len(indices_T) != len(frames_THWC):
        raise ValueError(f"{len(frames_THWC)} frames and {len(indices_T)} frame numbers do not fit")
    return blend(frames_THWC, regions_Rhw, indices_T, draw_blend(seed))


def draw_blend(seed: int) -> BlendDraw:
    """Draw the transformation of one clip; ranges follow the paper's code where it states them."""
    rng = np.random.default_rng(seed)
    area = int(rng.choice(_AREAS, p=_AREA_SHARES))
    return BlendDraw(
        area=area,
        hull=area != FACE_BITS or bool(rng.random() < 0.5),
        dx=rng.uniform(-0.03, 0.03),
        dy=rng.uniform(-0.015, 0.015),
        scale=rng.uniform(0.95, 1.05),
        elastic=rng.uniform(0.002, 0.008),
        mask_elastic=rng.uniform(0.005, 0.025),
        blur_in=rng.uniform(0.01, 0.04),
        blur_out=rng.uniform(0.005, 0.05),
        threshold=rng.uniform(0.3, 0.7),
        ratio=float(rng.choice((0.25, 0.5, 0.75, 1.0, 1.0, 1.0))),
        tone=Tone(
            shift_C=_three(rng.uniform(-20, 20, 3)),
            gain=rng.uniform(0.9, 1.1),
            saturation=rng.uniform(0.7, 1.3),
            sharpness=float(rng.choice((-0.5, 0.8))),
        ),
        tone_on_source=bool(rng.random() < 0.5),
        common=Tone(
            shift_C=_three(rng.uniform(-15, 15, 3)), gain=rng.uniform(0.8, 1.2), saturation=rng.uniform(0.8, 1.2)
        ),
        jpeg=int(rng.integers(60, 100)),
        field_seed=int(rng.integers(2**31)),
    )


def blend(frames_THWC: np.ndarray, regions_Rhw: np.ndarray, indices_T: Sequence[int], draw: BlendDraw) -> BlendedPair:
    """Carry out one draw. The real clip gets every step but the blend itself, so that only the blend tells them apart.

    As in the paper the target keeps its colour change in the *real* clip as well, and a last change of colour and a
    JPEG round trip of one common quality fall on both.
    """
    height, width = frames_THWC.shape[1:3]
    mask_THW = blend_mask(regions_Rhw, indices_T, (height, width), draw)
    opacity_THW1 = mask_THW[..., None]
    target_THWC = frames_THWC.astype(np.float32)
    source_THWC = target_THWC
    toned_THWC = np.stack([change_tone(frame_HWC, draw.tone) for frame_HWC in target_THWC])
    if draw.tone_on_source:
        source_THWC = toned_THWC
    else:
        target_THWC = toned_THWC
    map_x_HW, map_y_HW = _source_maps(height, width, draw)
    source_THWC = np.stack(
        [
            cv2.remap(frame_HWC, map_x_HW, map_y_HW, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
            for frame_HWC in source_THWC
        ]
    )
    fake_THWC = source_THWC * opacity_THW1 + target_THWC * (1 - opacity_THW1)
    return BlendedPair(_finish(target_THWC, draw), _finish(fake_THWC, draw), mask_THW)


def blend_mask(
    regions_Rhw: np.ndarray, indices_T: Sequence[int], size_HW: tuple[int, int], draw: BlendDraw
) -> np.ndarray:
    """Turn region maps into a soft, deformed opacity for each frame, float32 (T, H, W) in [0, 1].

    Maps lie four frames apart and their cells are 8 pixels wide: the mask is smoothed over time and interpolated
    between maps, otherwise its edge would jump and the jump alone would give the fake away.
    """
    height, width = size_HW
    area_Rhw = _area_maps(regions_Rhw, draw)
    padded = np.concatenate([area_Rhw[:1], area_Rhw, area_Rhw[-1:]])
    smooth_Rhw = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
    map_x_HW, map_y_HW = _displaced(height, width, draw.mask_elastic, draw.field_seed + 1)
    mask_THW = np.empty((len(indices_T), height, width), np.float32)
    for t, index in enumerate(indices_T):
        place = min(index / REGION_STRIDE, len(smooth_Rhw) - 1)
        low = int(place)
        high = min(low + 1, len(smooth_Rhw) - 1)
        cells_hw = smooth_Rhw[low] + (place - low) * (smooth_Rhw[high] - smooth_Rhw[low])
        mask_HW = cv2.resize(cells_hw, (width, height), interpolation=cv2.INTER_LINEAR)
        mask_HW = cv2.remap(mask_HW, map_x_HW, map_y_HW, cv2.INTER_LINEAR)
        mask_THW[t] = _blur(mask_HW, draw.blur_in * height)
    # a small area fades under the blurs, and a fake that shows nothing is a wrong label: restore full height each time
    mask_THW /= mask_THW.max()
    # a steep ramp moves the edge inwards or outwards and stays smooth in time, unlike a hard threshold
    mask_THW = np.clip((mask_THW - draw.threshold) / _RAMP + 0.5, 0, 1)
    mask_THW = np.stack([_blur(mask_HW, draw.blur_out * height) for mask_HW in mask_THW])
    return mask_THW * np.float32(draw.ratio / mask_THW.max())


def change_tone(frame_HWC: np.ndarray, tone: Tone) -> np.ndarray:
    """Change colour and sharpness of one float32 frame in [0, 255]; the result is clipped to that range."""
    result_HWC = frame_HWC
    if tone.sharpness > 0:
        result_HWC = result_HWC + tone.sharpness * (result_HWC - cv2.GaussianBlur(result_HWC, (0, 0), 2.0))
    elif tone.sharpness < 0:
        height, width = frame_HWC.shape[:2]
        factor = 1 + tone.sharpness / 2
        small = cv2.resize(result_HWC, (round(width * factor), round(height * factor)), interpolation=cv2.INTER_AREA)
        result_HWC = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    # saturation, gain and shift are one affine map of the three channels: one pass over the pixels
    colour_CC = tone.gain * (tone.saturation * np.eye(3) + (1 - tone.saturation) * np.outer(np.ones(3), _GREY_C))
    result_HWC = cv2.transform(result_HWC, np.column_stack([colour_CC, tone.shift_C]).astype(np.float32))
    return np.clip(result_HWC, 0, 255)


def _area_maps(regions_Rhw: np.ndarray, draw: BlendDraw) -> np.ndarray:
    """Cells to exchange, float32 (R, h, w); maps without a face repeat the nearest that has one."""
    cells_Rhw = (regions_Rhw & draw.area) != 0
    if not cells_Rhw.any():  # e.g. skin was found and no component: take the whole face
        cells_Rhw = (regions_Rhw & FACE_BITS) != 0
    filled = np.flatnonzero(cells_Rhw.any(axis=(1, 2)))
    nearest_R = filled[np.abs(np.arange(len(cells_Rhw))[:, None] - filled[None]).argmin(axis=1)]
    maps = {int(r): _hull(cells_Rhw[r]) if draw.hull else cells_Rhw[r].astype(np.float32) for r in filled}
    return np.stack([maps[int(r)] for r in nearest_R])


def _hull(cells_hw: np.ndarray) -> np.ndarray:
    points_N2 = np.argwhere(cells_hw)[:, ::-1].astype(np.int32)
    filled_hw = np.zeros(cells_hw.shape, np.float32)
    cv2.fillConvexPoly(filled_hw, cv2.convexHull(points_N2), 1.0)
    return filled_hw


def _displaced(height: int, width: int, strength: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sampling maps of a smooth random displacement with standard deviation ``strength`` of the side."""
    coarse_2hw = np.random.default_rng(seed).normal(0, 1, (2, 6, 6)).astype(np.float32)
    fields = [
        cv2.resize(c_hw, (width, height), interpolation=cv2.INTER_CUBIC) * strength * height for c_hw in coarse_2hw
    ]
    y_HW, x_HW = np.mgrid[0:height, 0:width].astype(np.float32)
    return x_HW + fields[0], y_HW + fields[1]


def _source_maps(height: int, width: int, draw: BlendDraw) -> tuple[np.ndarray, np.ndarray]:
    x_HW, y_HW = _displaced(height, width, draw.elastic, draw.field_seed)
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    map_x = (x_HW - centre_x) / draw.scale + centre_x - draw.dx * width
    map_y = (y_HW - centre_y) / draw.scale + centre_y - draw.dy * height
    return map_x.astype(np.float32), map_y.astype(np.float32)


def _finish(frames_THWC: np.ndarray, draw: BlendDraw) -> np.ndarray:
    finished = []
    for frame_HWC in frames_THWC:
        toned_HWC = np.rint(change_tone(frame_HWC, draw.common)).astype(np.uint8)
        finished.append(_through_jpeg(toned_HWC, draw.jpeg))
    return np.ascontiguousarray(np.stack(finished))


def _through_jpeg(image_HWC: np.ndarray, quality: int) -> np.ndarray:
    _, data = cv2.imencode(".jpg", image_HWC[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded_HWC = cv2.imdecode(data, cv2.IMREAD_COLOR)
    if decoded_HWC is None:
        raise MediaError("OpenCV cannot read the JPEG it has just written; install the locked opencv-python")
    return decoded_HWC[..., ::-1]


def _blur(mask_HW: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(mask_HW, (0, 0), max(sigma, 0.1))


def _three(values: np.ndarray) -> tuple[float, float, float]:
    red, green, blue = (float(v) for v in values)
    return red, green, blue
