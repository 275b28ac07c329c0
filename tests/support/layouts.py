"""Builds known datasets on disk as their owners ship them, out of whatever videos are at hand."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

_APPEARANCE = """
    blurry male young chubby pale_skin rosy_cheeks oval_face receding_hairline bald bangs black_hair blonde_hair
    gray_hair brown_hair straight_hair wavy_hair long_hair arched_eyebrows bushy_eyebrows bags_under_eyes eyeglasses
    sunglasses narrow_eyes big_nose pointy_nose high_cheekbones big_lips double_chin no_beard 5_o_clock_shadow goatee
    mustache sideburns heavy_makeup wearing_earrings wearing_hat wearing_lipstick wearing_necklace wearing_necktie
    wearing_mask
"""
_ACTION = """
    blow chew close_eyes cough cry drink eat frown gaze glare head_wagging kiss laugh listen_to_music look_around
    make_a_face nod play_instrument read shake_head shout sigh sing sleep smile smoke sneer sneeze sniff talk turn weep
    whisper wink yawn
"""
APPEARANCE, ACTION = _APPEARANCE.split(), _ACTION.split()
"""The names of CelebV-HQ's 40 and 35 attributes."""
MOSEI_COLUMNS = ("sentiment", "happy", "sad", "anger", "surprise", "disgust", "fear")
Content = Path | bytes
"""A file to copy, or bytes to write."""


@dataclass(frozen=True)
class CelebClip:
    """A clip of CelebV-HQ: seconds, left top right bottom in [0, 1], and which attributes it has."""

    ytb_id: str
    start_s: float = 0.0
    end_s: float = 1.0
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    appearance: tuple[str, ...] = ()
    action: tuple[str, ...] = ()
    emotion: object = "neutral"


def put(path: Path, content: Content) -> Path:
    """Write one file of a layout, folders above it included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        shutil.copy(content, path)
    return path


def youtube_faces(
    root: Path, person: str, video: str, frames_FHWC: np.ndarray, *, first: int = 1, boxes: Sequence | None = None
) -> Path:
    """Write one video as JPEG frames and, where ``boxes`` (x0 y0 x1 y1 by frame, None without) are given, its labels.

    Returns:
        The folder of frames; the labels are appended to ``<person>.labeled_faces.txt``.
    """
    tree = root / "frame_images_DB"
    folder = tree / person / video
    folder.mkdir(parents=True)
    for number, frame_HWC in enumerate(frames_FHWC, first):
        Image.fromarray(frame_HWC).save(folder / f"{video}.{number}.jpg", quality=92)
    lines = []
    for number, box in enumerate(boxes if boxes is not None else (), first):
        if box is not None:
            x0, y0, x1, y1 = (float(side) for side in box)
            name = f"{person}\\{video}\\{video}.{number}.jpg"
            lines.append(f"{name},0,{(x0 + x1) / 2:.0f},{(y0 + y1) / 2:.0f},{x1 - x0:.0f},{y1 - y0:.0f},0.0,1\r\n")
    if lines:
        with (tree / f"{person}.labeled_faces.txt").open("ab") as file:
            file.write("".join(lines).encode("cp1252"))
    return folder


def faceforensics(
    root: Path,
    originals: Mapping[str, Content],
    fakes: Mapping[str, Content],
    *,
    method: str = "Deepfakes",
    compression: str = "c23",
) -> Path:
    """Write originals by number (``004``) and one method's fakes by pair (``004_982``)."""
    for name, content in originals.items():
        put(root / "original_sequences" / "youtube" / compression / "videos" / f"{name}.mp4", content)
    for name, content in fakes.items():
        put(root / "manipulated_sequences" / method / compression / "videos" / f"{name}.mp4", content)
    return root


def split_list(path: Path, names: Sequence) -> str:
    """Write a split list as JSON and return its path as text."""
    return str(put(path, json.dumps(names).encode()))


def celebvhq(root: Path, clips: Mapping[str, CelebClip], videos: Mapping[str, Content]) -> Path:
    """Write ``celebvhq_info.json`` and the videos (name with folder and ending → content) below it."""
    info = {
        "meta_info": {"appearance_mapping": APPEARANCE, "action_mapping": ACTION},
        "clips": {
            name: {
                "ytb_id": clip.ytb_id,
                "duration": {"start_sec": clip.start_s, "end_sec": clip.end_s},
                "bbox": dict(zip(("left", "top", "right", "bottom"), clip.box, strict=True)),
                "attributes": {
                    "appearance": [int(attribute in clip.appearance) for attribute in APPEARANCE],
                    "action": [int(attribute in clip.action) for attribute in ACTION],
                    "emotion": {"sep_flag": isinstance(clip.emotion, list), "labels": clip.emotion},
                },
                "version": "v0.1",
            }
            for name, clip in clips.items()
        },
    }
    put(root / "celebvhq_info.json", json.dumps(info).encode())
    for name, content in videos.items():
        put(root / name, content)
    return root


def mosei(
    root: Path, labels: Mapping[str, Sequence[Sequence[float]]], videos: Mapping[str, Content], *, kind: str = "csd"
) -> Path:
    """Write segments (``<video id>_<n>`` → content) and the labels of each video's segments as csd (HDF5) or csv."""
    for name, content in videos.items():
        put(root / "Segmented" / f"{name}.mp4", content)
    path = root / f"CMU_MOSEI_Labels.{kind}"
    if kind == "csd":
        with h5py.File(path, "w") as file:
            for video, rows in labels.items():
                group = file.create_group(f"All Labels/data/{video}")
                group["features"] = np.asarray(rows, np.float32).reshape(-1, len(MOSEI_COLUMNS))
                group["intervals"] = np.zeros((len(rows), 2), np.float32)
        return root
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video_id", "clip_id", *MOSEI_COLUMNS])
        writer.writerows([video, number, *row] for video, rows in labels.items() for number, row in enumerate(rows))
    return root


def lrs2(
    root: Path, utterances: Mapping[str, tuple[str, Content]], splits: Mapping[str, Sequence[str]] | None = None
) -> Path:
    """Write utterances (``main/<id>/<utt>`` → words, content), and the lists of the splits (``<id>/<utt>``)."""
    for name, (words, content) in utterances.items():
        put(root / f"{name}.mp4", content)
        put(root / f"{name}.txt", f"Text:  {words}\nConf:  4\n".encode())
    for split, names in (splits or {}).items():
        put(root / f"{split}.txt", "".join(f"{name}\n" for name in names).encode())
    return root
