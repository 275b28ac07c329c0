"""``Marlin``: takes the place of the class of the same name in ``marlin-pytorch``.

Here alone a mask has their polarity, True = visible; everything inside this project has True = hidden.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from infra.config import validate_config
from infra.errors import ConfigError, WeightsError
from infra.fetch import fetch_file
from model.clip_stream import plan_video, window_stream
from model.nets.config import ModelConfig
from model.nets.factory import build_encoder, build_mae
from model.nets.mae import MaskedAutoencoder
from model.nets.patch_embed import to_unit_range
from model.weights import LoadedWeights, known_name, load_weights
from pipeline.config import EmbeddedFaces, TrackConfig
from pipeline.faces.backend import build_detector
from pipeline.media.decode import VideoFrames
from pipeline.media.probe import probe

CHUNK = 32
CACHE = Path.home() / ".cache" / "marlin"


class _Online(NamedTuple):
    """A registered model: where its weights are, their sha256, and its shape when it is no released one."""

    url: str
    sha256: str
    config: ModelConfig | None


_REGISTRY: dict[str, _Online] = {}


class Marlin(nn.Module):
    """The pretrained network as a feature extractor, and as an autoencoder where the file has a decoder."""

    def __init__(self, weights: LoadedWeights) -> None:
        super().__init__()
        self.config = weights.config
        state = {name: value for name, value in weights.state.items() if not name.startswith(("discriminator", "head"))}
        self.autoencoder: MaskedAutoencoder | None = None
        if weights.has_decoder:
            self.autoencoder = build_mae(weights.config)
            self.autoencoder.load_state_dict(state)
            self.encoder = self.autoencoder.encoder
        else:
            self.encoder = build_encoder(weights.config)
            self.encoder.load_state_dict({name.removeprefix("encoder."): value for name, value in state.items()})
        self.eval()

    @classmethod
    def from_file(cls, model_name: str, path: str | Path) -> Marlin:
        """Load ``path`` (``.pt``, ``.ckpt``, ``.pth``, our own); the name may end in ``_ytf``.

        Raises:
            ConfigError: unknown name.
            WeightsError: the file cannot be read, holds code, or holds another size.
        """
        registered = _REGISTRY.get(model_name)
        if registered is not None and registered.config is not None:
            return cls(load_weights(path))
        return cls(load_weights(path, known_name(model_name)))

    @classmethod
    def from_online(cls, model_name: str) -> Marlin:
        """Load a registered model, fetched once and checked by sha256.

        Raises:
            ConfigError: no model of this name is registered.
            WeightsError: the file cannot be had, or has another digest.
        """
        if model_name not in _REGISTRY:
            raise ConfigError(
                f"no online model '{model_name}'; register one with its url and sha256 "
                f"(register_model_from_yaml), or download the file and call from_file. Registered: {sorted(_REGISTRY)}"
            )
        entry = _REGISTRY[model_name]
        return cls.from_file(model_name, fetch_file(entry.url.rsplit("/", 1)[-1], entry.sha256, [entry.url], CACHE))

    @staticmethod
    def register_model_from_yaml(name: str, path: str | Path) -> None:
        """Register a model: a YAML file with ``url``, ``sha256`` and, for a size of your own, ``config``.

        Raises:
            ConfigError: the file cannot be read or lacks a field.
        """
        try:
            tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
            url, sha256 = str(tree["url"]), str(tree["sha256"])
        except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
            raise ConfigError(f"model file {path} needs the fields url and sha256 ({error})") from error
        config = tree.get("config")
        shape = None if config is None else validate_config(ModelConfig, config, where=str(path))
        _REGISTRY[name] = _Online(url, sha256, shape)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Predict hidden patches.

        Args:
            x: float in [0, 1] or uint8, (B, 3, T, H, W).
            mask: bool (B, L), **True = visible**, as in marlin-pytorch. None returns token features instead.

        Returns:
            (B, M, P) predictions of the hidden patches in token order, or (B, L, D) without a mask.

        Raises:
            WeightsError: a mask is given and the file had no decoder.
        """
        if mask is None:
            return self.extract_features(x)
        if self.autoencoder is None:
            raise WeightsError("these weights hold an encoder alone and cannot reconstruct; load the full model")
        return self.autoencoder(x, ~mask.bool()).pred_BMP

    def extract_features(self, x: Tensor, keep_seq: bool = True) -> Tensor:
        """Return token features (B, L, D), or with ``keep_seq=False`` one feature a clip (B, D)."""
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
        detector_device: str | None = None,
        keep_tail: bool = False,
    ) -> Tensor:
        """Return features of a video's sliding windows, in order of track and time.

        Args:
            video_path: the video.
            crop_face: cut out the faces (every track, one smoothed square each); else the whole frame is padded to a
                square. The reference crops frame by frame, which jitters.
            sample_rate: 2, the rate of training; others are refused.
            stride: 16; others are refused.
            reduction: ``none`` (N, …), or ``mean`` / ``max`` over windows (1, …).
            keep_seq: token features (…, L, D) instead of pooled ones (…, D).
            detector_device: kept for compatibility; the embedded detector runs on the CPU.
            keep_tail: also take the window that ends with the last frame.

        Raises:
            RejectError: the video cannot be decoded, or has no face where one is wanted.
            ConfigError: an argument that is not supported.
        """
        if (sample_rate, stride) != (2, 16):
            raise ConfigError(f"sample_rate {sample_rate} and stride {stride} are not supported; take 2 and 16")
        if reduction not in ("none", "mean", "max"):
            raise ConfigError(f"reduction '{reduction}' is unknown; take none, mean or max")
        frames = VideoFrames(str(video_path))
        plan = plan_video(
            frames, probe(str(video_path)), "face" if crop_face else "none", detector=build_detector(EmbeddedFaces()),
            track_cfg=TrackConfig(), window_frames=self.config.frames, keep_tail=keep_tail, chunk=CHUNK,
        )  # fmt: skip
        rows: list[Tensor | None] = [None] * len(plan.windows)
        for window in window_stream(plan, frames, self.config.image_size, CHUNK):
            rows[window.row] = self._features(window.frames_THWC, keep_seq)
        features = torch.stack([row for row in rows if row is not None])
        if reduction == "none":
            return features
        return features.mean(0, keepdim=True) if reduction == "mean" else features.amax(0, keepdim=True)

    def _features(self, frames_THWC: np.ndarray, keep_seq: bool) -> Tensor:
        device = next(self.encoder.parameters()).device
        clip_BCTHW = torch.from_numpy(frames_THWC).permute(3, 0, 1, 2)[None].to(device)
        return self.extract_features(to_unit_range(clip_BCTHW), keep_seq)[0].cpu()
