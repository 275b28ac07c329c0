"""What a masked autoencoder makes of a clip: pictures for people, and numbers against predicting mean colours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from infra.errors import ConfigError
from infra.paths import input_file, output_file
from model.data.batch import ClipSample
from model.data.source import STRIDE, resize_frames
from model.data.window import WindowPlan
from model.masking import check_mask, make_mask
from model.nets.config import ModelConfig
from model.nets.factory import build_mae
from model.nets.mae import MaskedAutoencoder
from model.nets.patch_embed import as_clip, patchify, to_unit_range, unpatchify
from model.reconstruct_config import ReconstructConfig
from model.weights import load_weights
from pipeline.config import Faces, IngestConfig
from pipeline.extract_clips import ClipExtractor
from pipeline.faces.backend import build_parser
from pipeline.media.decode import decode_clip
from pipeline.parse_regions import parse_clip
from pipeline.rejects import RejectError
from pipeline.rows import EncodedClip, RejectReason, SourceVideo

FRAMES_SHOWN = 8
HIDDEN_GREY = 96
"""Grey level of hidden patches in pictures."""
TILE = 112
"""Side of one frame in pictures, in pixels."""
MEAN_FACE_CLIPS = 64
"""Training clips that the mean face is taken over, at most."""


class ReconstructedClip(NamedTuple):
    """One clip three times, uint8 RGB (T, H, W, 3): as it is, with hidden patches grey, and with predictions there."""

    original_THWC: np.ndarray
    masked_THWC: np.ndarray
    rebuilt_THWC: np.ndarray


@dataclass(frozen=True)
class ReconstructionScore:
    """Mean squared error on hidden patches, pixels in [0, 1], over ``clips`` clips.

    ``mean_colour`` predicts the mean colour of a clip's own visible patches; ``mean_face`` predicts the mean of the
    training clips at each pixel. A network that has learnt something beats both.
    """

    clips: int
    mse: float
    mean_colour: float
    mean_face: float

    @property
    def against_mean_colour(self) -> float:
        """The error as a share of the mean colour's; 1 is no better."""
        return self.mse / self.mean_colour

    @property
    def against_mean_face(self) -> float:
        """The error as a share of the mean face's; 1 is no better."""
        return self.mse / self.mean_face


def load_autoencoder(weights: str | Path) -> tuple[MaskedAutoencoder, ModelConfig]:
    """Return the autoencoder of a weight file or run folder, ready to predict, and its shape.

    Raises:
        ConfigError: the file holds an encoder alone.
        WeightsError: it cannot be read.
    """
    loaded = load_weights(weights)
    if not loaded.has_decoder:
        raise ConfigError(
            f"{weights} holds an encoder without decoder and cannot reconstruct; take a pretraining result"
        )
    network = build_mae(loaded.config)
    network.load_state_dict(loaded.network)
    return network.eval(), loaded.config


def predict_hidden(network: MaskedAutoencoder, clip_THWC: Tensor, is_masked_L: Tensor) -> tuple[Tensor, Tensor]:
    """Return (pred_MP, target_MP) of one clip's hidden patches, fp32 on the CPU, whatever the network runs in."""
    device = network.enc_dec_proj.weight.device
    with torch.no_grad():
        pred_BMP, target_BMP = network(as_clip(clip_THWC).to(device), is_masked_L[None].to(device))
    return pred_BMP[0].float().cpu(), target_BMP[0].float().cpu()


def reconstruct_clip(network: MaskedAutoencoder, clip_THWC: Tensor, is_masked_L: Tensor) -> ReconstructedClip:
    """Predict the hidden patches of one clip (uint8 RGB); visible ones stay as they are."""
    cfg = network.config
    pred_MP, _ = predict_hidden(network, clip_THWC, is_masked_L)
    patches_LP = patchify(to_unit_range(as_clip(clip_THWC)), cfg.tubelet, cfg.patch_size)[0]
    masked_LP, rebuilt_LP = patches_LP.clone(), patches_LP.clone()
    masked_LP[is_masked_L] = HIDDEN_GREY / 255
    rebuilt_LP[is_masked_L] = pred_MP

    def frames(patches: Tensor) -> np.ndarray:
        clip_CTHW = unpatchify(patches[None], cfg.grid, cfg.tubelet, cfg.patch_size)[0]
        pixels: np.ndarray = (clip_CTHW.permute(1, 2, 3, 0).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        return pixels

    return ReconstructedClip(clip_THWC.numpy(), frames(masked_LP), frames(rebuilt_LP))


def draw_reconstructions(clips: Sequence[ReconstructedClip], frames: int = FRAMES_SHOWN) -> bytes:
    """Return a PNG: for each clip three rows (original, masked, reconstructed) of ``frames`` frames in time order."""
    rows = []
    for clip in clips:
        shown = np.linspace(0, len(clip.original_THWC) - 1, min(frames, len(clip.original_THWC))).round().astype(int)
        for video_THWC in clip:
            tiles = [cv2.resize(video_THWC[t], (TILE, TILE), interpolation=cv2.INTER_AREA) for t in shown]
            rows.append(np.concatenate(tiles, axis=1))
        rows.append(np.full((TILE // 14, rows[-1].shape[1], 3), 255, np.uint8))
    picture = np.concatenate(rows[:-1], axis=0)
    return cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()


def mean_face(samples: Iterable[ClipSample]) -> Tensor:
    """Return the mean frame of the samples, fp32 (C, H, W) in [0, 1]."""
    total, count = torch.zeros(()), 0
    for sample in samples:
        total = total + to_unit_range(sample.clip_THWC).mean(dim=0)
        count += 1
    return (total / count).permute(2, 0, 1)


def score_reconstruction(
    network: MaskedAutoencoder, samples: Iterable[ClipSample], face_CHW: Tensor
) -> ReconstructionScore:
    """Measure the network and both mean predictions on the hidden patches of the samples."""
    shape = network.config
    # the mean face as a still clip, cut as the network cuts: what it predicts for each patch
    still_BCTHW = face_CHW[None, :, None].expand(1, -1, shape.frames, -1, -1)
    still_LP = patchify(still_BCTHW, shape.tubelet, shape.patch_size)[0]
    errors = []
    for sample in samples:
        pred_MP, target_MP = predict_hidden(network, sample.clip_THWC, sample.is_masked_L)
        patches_LP = patchify(to_unit_range(as_clip(sample.clip_THWC)), shape.tubelet, shape.patch_size)[0]
        # (V, 3 · pixels) with channels outermost -> one colour, spread over a patch again
        visible_VCp = patches_LP[~sample.is_masked_L].unflatten(1, (3, -1))
        colour_P = visible_VCp.mean(dim=(0, 2)).repeat_interleave(visible_VCp.shape[2])
        guesses = (pred_MP, colour_P.expand_as(target_MP), still_LP[sample.is_masked_L])
        errors.append([float((guess - target_MP).square().mean()) for guess in guesses])
    mse, colour, face = np.mean(errors, axis=0).tolist()
    return ReconstructionScore(len(errors), mse, colour, face)


def reconstruct(cfg: ReconstructConfig) -> Path:
    """Draw what the weights make of the faces in a video, and return the picture's path.

    The video goes through ingestion's own crop and region parser. Clips are taken evenly over the video.

    Raises:
        RejectError: it cannot be decoded, or shows no face for 31 frames together.
        ConfigError: no such video, ``cfg.out`` cannot be written, or ``cfg.mask`` is no mask of this network.
        ConfigError, WeightsError: see ``load_autoencoder``.
    """
    video, target = input_file(cfg.video), output_file(cfg.out)
    network, shape = load_autoencoder(cfg.weights)
    plan = WindowPlan(shape.frames, STRIDE, shape.tubelet, shape.image_size, shape.grid.h)
    plan.check()
    check_mask(shape.grid, cfg.mask)
    found = [clip for clip in _face_clips(video, cfg.faces) if clip.meta.frames >= plan.span]
    if not found:
        raise RejectError(RejectReason.NO_TRACK, f"no face stays in sight for {plan.span} frames together")
    chosen = [found[i] for i in np.linspace(0, len(found) - 1, min(cfg.clips, len(found))).round().astype(int)]
    parser = build_parser(cfg.faces)
    drawn = []
    for number, clip in enumerate(chosen):
        regions_RHW = parse_clip(clip.mp4, clip.meta, parser)
        frames_THWC = resize_frames(decode_clip(clip.mp4, plan.frame_indices(0)), shape.image_size)
        bits_Thw = torch.from_numpy(plan.region_bits(regions_RHW, 0).astype(np.int32))
        seed = torch.tensor([cfg.seed + number])
        is_masked_BL = make_mask(cfg.mask.strategy, bits_Thw[None], shape.grid, cfg.mask.ratio, seed)
        drawn.append(reconstruct_clip(network, torch.from_numpy(frames_THWC), is_masked_BL[0]))
    target.write_bytes(draw_reconstructions(drawn))
    return target


def _face_clips(video: Path, faces: Faces) -> list[EncodedClip]:
    source = SourceVideo(digest="0" * 64, path=str(video), name=video.name, bytes=video.stat().st_size)
    return list(ClipExtractor(IngestConfig(faces=faces), "0" * 64)(source, str(video), "train"))
