"""``Marlin``: takes the place of the class of the same name in ``marlin-pytorch`` 0.3.4.

Here alone a mask has their polarity, True = visible; everything inside this project has True = hidden. Parameters have
their names too, so ``state_dict()`` of either class loads into the other.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from infra.device import pick_device
from infra.errors import ConfigError, WeightsError
from model.clip_stream import plan_video, window_stream
from model.nets.decoder import Decoder
from model.nets.factory import build_encoder, build_mae
from model.nets.patch_embed import as_clip, token_indices
from model.online import fetch_model, online_folder, register_model_from_yaml, registered_shape
from model.weights import LoadedWeights, known_name, load_weights
from pipeline.config import EmbeddedFaces, Faces, FacexlibFaces, LimitConfig, TrackConfig
from pipeline.faces.backend import build_detector
from pipeline.media.decode import VideoFrames
from pipeline.media.probe import probe

logger = logging.getLogger(__name__)

CHUNK = 32


class Marlin(nn.Module):
    """The pretrained network as a feature extractor and, where the file has a decoder, as an autoencoder.

    Like any fresh module, and like theirs, it comes in training mode, which changes no number (there is no dropout):
    in training mode features carry gradients, after ``eval()`` they do not.
    """

    def __init__(self, weights: LoadedWeights) -> None:
        super().__init__()
        self.config = weights.config
        self.decoder: Decoder | None = None
        self.enc_dec_proj: nn.Linear | None = None
        if weights.has_decoder:
            network = build_mae(weights.config)
            self.encoder, self.enc_dec_proj, self.decoder = network.encoder, network.enc_dec_proj, network.decoder
        else:
            self.encoder = build_encoder(weights.config)
        self.load_state_dict(weights.network)

    @classmethod
    def from_file(cls, model_name: str, path: str | Path) -> Marlin:
        """Load weights from a file.

        Args:
            model_name: a named size, with or without ``_ytf``, or a name given to ``register_model_from_yaml``.
            path: ``.pt``, ``.ckpt``, VideoMAE's ``.pth``, our ``weights.safetensors``, or the folder of one of our
                runs or checkpoints.

        Raises:
            ConfigError: unknown name.
            WeightsError: the file cannot be read, holds code, or holds another size.
        """
        shape = registered_shape(model_name)
        if shape is None:
            return cls(load_weights(path, known_name(model_name)))
        weights = load_weights(path, config=shape)
        own, wanted = (
            config.model_dump(exclude={"name", "activation_checkpointing"}) for config in (weights.config, shape)
        )
        if own != wanted:
            raise WeightsError(f"{path} holds another network than the one registered as '{model_name}'")
        return cls(weights)

    @classmethod
    def from_online(cls, model_name: str, full_model: bool = False) -> Marlin:
        """Load a released or registered model, fetched once and kept.

        Args:
            model_name: ``marlin_vit_small_ytf``, ``…base_ytf``, ``…large_ytf``, or a name registered with an address.
            full_model: with the decoder.

        Raises:
            ConfigError: no weights of this name are known.
            WeightsError: the file cannot be had, or is not what it should be.
        """
        path = fetch_model(model_name, full_model)
        try:
            return cls.from_file(model_name, path)
        except WeightsError as error:
            if registered_shape(model_name) is not None:  # its digest was right: the same bytes would come again
                raise
            raise WeightsError(
                f"{error}; if the download was bad, Marlin.clean_cache() removes it and the next call fetches it again"
            ) from error

    register_model_from_yaml = staticmethod(register_model_from_yaml)

    @staticmethod
    def clean_cache(verbose: bool = True) -> None:
        """Remove the files that ``from_online`` keeps; ``verbose`` logs it, where marlin-pytorch prints it."""
        if online_folder().exists():
            shutil.rmtree(online_folder(), ignore_errors=True)
            if verbose:
                logger.info("Marlin checkpoints cache cleaned.")

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.encoder.norm.weight.device

    @property
    def clip_frames(self) -> int:
        """Frames of a clip."""
        return self.config.frames

    @property
    def as_feature_extractor(self) -> bool:
        """Whether there is an encoder alone."""
        return self.decoder is None

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Predict hidden patches.

        Args:
            x: float in [0, 1] or uint8, (B, 3, T, H, W).
            mask: bool (B, L), **True = visible**, as in marlin-pytorch; as many visible in every clip.

        Returns:
            (B, M, P): pixels of the hidden patches, in token order, each patch ordered (channel, time, row, column).

        Raises:
            WeightsError: the file had no decoder.
            ValueError: clips or mask are of another size than the network's, or the clips have different numbers of
                visible tokens, which would mix them up.
        """
        if self.decoder is None or self.enc_dec_proj is None:
            raise WeightsError(
                "these weights hold an encoder alone and cannot reconstruct; load the full model, or call "
                "extract_features or extract_video"
            )
        if tuple(mask.shape) != (len(x), self.config.tokens):
            raise ValueError(f"mask is {tuple(mask.shape)}; these clips need {(len(x), self.config.tokens)}")
        is_masked_BL = ~mask.bool()
        if len(is_masked_BL.sum(dim=1).unique()) != 1:
            raise ValueError("mask must show as many tokens of every clip")
        patches_BLP = self.encoder.patches(x)
        visible_BV, hidden_BM = token_indices(~is_masked_BL), token_indices(is_masked_BL)
        visible_BVD = self.encoder.encode_visible(patches_BLP, visible_BV)
        pred_BMP: Tensor = self.decoder(self.enc_dec_proj(visible_BVD), visible_BV, hidden_BM)
        return pred_BMP

    def extract_features(self, x: Tensor, keep_seq: bool = True) -> Tensor:
        """Return token features (B, L, D), or with ``keep_seq=False`` one feature a clip (B, D).

        They carry gradients in training mode only, as in marlin-pytorch. ``x`` is as in ``forward``.
        """
        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            return self.encoder(x) if keep_seq else self.encoder.pooled(x)

    @torch.no_grad()
    def extract_video(
        self,
        video_path: str | Path,
        crop_face: bool = False,
        sample_rate: int = 2,
        stride: int = 16,
        reduction: Literal["none", "mean", "max"] = "none",
        keep_seq: bool = False,
        detector_device: str | torch.device | None = None,
        keep_tail: bool = False,
        faces: Faces | None = None,
    ) -> Tensor:
        """Return features of a video's sliding windows, cut as released, and leave the network in eval mode.

        The first seven arguments are those of marlin-pytorch, which sees the same windows with two exceptions: it
        believes the container's frame count where we count what decodes, and it cannot read videos of 17 frames to one
        window that hold fewer frames than they promise. What else differs:

        - Frames that are not of the network's size it refuses without ``crop_face``; here they are padded to a square
          with black and resized.
        - With ``crop_face`` it crops the best detection of every single frame, as large as its box. Here every face is
          followed through the video and cut out along a smoothed path with the margin that our datasets have; the rows
          go face by face. Where it matters which row is whose, use ``model.extract``, which says so.

        Args:
            video_path: the video.
            crop_face: cut out the faces; else take whole frames.
            sample_rate: frames between the frames of a window.
            stride: distance between window starts, in sampled frames: one start every ``stride · sample_rate`` frames.
            reduction: ``none`` (N, …), or ``mean`` / ``max`` over the N windows, without that dimension.
            keep_seq: token features (…, L, D) instead of pooled ones (…, D).
            detector_device: where ``faces`` runs; None leaves the choice to its settings.
            keep_tail: also take a window whose span ends with the video.
            faces: face detector; None takes the embedded one, which runs on the CPU alone.

        Raises:
            RejectError: the video cannot be decoded, or has no face where one is wanted.
            ConfigError: an argument is senseless, or the detector cannot run on ``detector_device``.
        """
        if reduction not in ("none", "mean", "max"):
            raise ConfigError(f"reduction '{reduction}' is unknown; take none, mean or max")
        if min(sample_rate, stride) < 1:
            raise ConfigError(f"sample_rate {sample_rate} and stride {stride} must be at least 1")
        backend = _on_device(faces or EmbeddedFaces(), detector_device)
        self.eval()
        frames, info = VideoFrames(str(video_path)), probe(str(video_path), LimitConfig().max_pixels)
        plan = plan_video(
            frames, info, "face" if crop_face else "none", detector=build_detector(backend) if crop_face else None,
            track_cfg=TrackConfig(), window_frames=self.config.frames, keep_tail=keep_tail, chunk=CHUNK,
            sample_rate=sample_rate, stride=stride,
        )  # fmt: skip
        windows = window_stream(plan, frames, self.config.image_size, CHUNK)
        clips = ((window.row, as_clip(torch.from_numpy(window.frames_THWC)).to(self.device)) for window in windows)
        rows = ((row, self.extract_features(clip_BCTHW, keep_seq)[0]) for row, clip_BCTHW in clips)
        return _collected(rows, len(plan.windows), reduction)


def _collected(rows: Iterator[tuple[int, Tensor]], count: int, reduction: Literal["none", "mean", "max"]) -> Tensor:
    """Return the rows, which come in any order, in theirs, or their mean or max; each is let go as it comes."""
    index, row = next(rows)
    if reduction == "max":
        return reduce(torch.maximum, (row for _, row in rows), row)
    if reduction == "mean":
        return (reduce(torch.add, (row.double() for _, row in rows), row.double()) / count).to(row.dtype)
    features = row.new_empty(count, *row.shape)
    features[index] = row
    for index, row in rows:
        features[index] = row
    return features


def _on_device(
    faces: EmbeddedFaces | FacexlibFaces, device: str | torch.device | None
) -> EmbeddedFaces | FacexlibFaces:
    if device is None:
        return faces
    chosen = pick_device(str(device), "detector_device")
    if isinstance(faces, FacexlibFaces):
        return faces.model_copy(update={"device": str(chosen)})
    if chosen.type != "cpu":
        raise ConfigError(f"the embedded face detector runs on the CPU, not on {device}; give faces=FacexlibFaces()")
    return faces
