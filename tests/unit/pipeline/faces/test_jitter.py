import numpy as np
import torch

from pipeline.config import FacexlibFaces, TrackConfig
from pipeline.faces.backend import build_detector
from pipeline.faces.filters import judge_tracks
from pipeline.faces.scan import scan_faces
from pipeline.faces.track import smooth_path
from pipeline.media.clock import StageClock
from pipeline.media.decode import read_frames


def _shake(squares_F4: np.ndarray) -> float:
    """Mean absolute second difference, in pixels."""
    return float(np.abs(np.diff(squares_F4, n=2, axis=0)).mean())


def test_the_crop_of_a_real_face_shakes_a_third_as_much_as_a_box_a_frame(
    shared_videos, shared_weights, monkeypatch, tmp_path
):
    """Bug caught: crops cut from each frame's own box, which shake; smoothing that is lost on the way."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    torch.set_num_threads(1)
    frames = read_frames(str(shared_videos / "video03.mp4"), range(80))
    detector = build_detector(
        FacexlibFaces(detector="retinaface_mobile0.25", weights=(str(shared_weights),), device="cpu")
    )
    cfg = TrackConfig()
    scan = scan_faces([(0, frames)], detector, cfg, hold_bytes=0, clock=StageClock())
    (track,) = judge_tracks(scan, cfg, fps=30).kept
    boxes = np.concatenate([found.boxes_N4[:1] for found in detector.detect(frames)])
    assert _shake(track.crops_F4) <= _shake(smooth_path(boxes, sigma_frames=0, margin=cfg.margin)) / 3
