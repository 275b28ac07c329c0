"""The shape of a network: one frozen config, one table of named sizes."""

from __future__ import annotations

from typing import Any, NamedTuple

from pydantic import Field, ValidationError, model_validator

from infra.config import BaseConfig
from infra.errors import ConfigError

MAX_TOKENS = 1 << 16
"""No network here attends over more."""


class TokenGrid(NamedTuple):
    """Tokens along time, height and width: t·h·w = L tokens, time slowest."""

    t: int
    h: int
    w: int

    @property
    def tokens(self) -> int:
        """Number of tokens, L."""
        return self.t * self.h * self.w


class ModelConfig(BaseConfig):
    """Architecture of the masked autoencoder. Nothing here is about training."""

    name: str = "marlin_vit_base"
    """The size's name; it also names exported files."""
    frames: int = Field(default=16, ge=1, le=1024)
    """Frames of a clip."""
    tubelet: int = Field(default=2, ge=1)
    """Frames of a token."""
    image_size: int = Field(default=224, ge=8, le=4096)
    """Side of a frame in pixels."""
    patch_size: int = Field(default=16, ge=8, multiple_of=8)
    """Side of a token in pixels; region maps have cells of 8 pixels."""
    encoder_dim: int = Field(default=768, ge=1, le=8192)
    """Width of the encoder, D."""
    encoder_depth: int = Field(default=12, ge=1, le=256)
    """Blocks of the encoder."""
    encoder_heads: int = Field(default=12, ge=1)
    """Attention heads of the encoder."""
    decoder_dim: int = Field(default=384, ge=1, le=8192)
    """Width of the decoder."""
    decoder_depth: int = Field(default=4, ge=1, le=256)
    """Blocks of the decoder."""
    decoder_heads: int = Field(default=6, ge=1)
    """Attention heads of the decoder."""
    mlp_ratio: int = Field(default=4, ge=1, le=64)
    """Hidden width of a block's MLP over its width."""
    activation_checkpointing: bool = False
    """Recompute blocks in the backward pass: less memory, about a third more arithmetic."""

    @model_validator(mode="after")
    def _check_shape(self) -> ModelConfig:
        if self.frames % self.tubelet:
            raise ValueError(f"frames {self.frames} is not a multiple of tubelet {self.tubelet}; change one of them")
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}; change one of them"
            )
        for part, dim, heads in (
            ("encoder", self.encoder_dim, self.encoder_heads),
            ("decoder", self.decoder_dim, self.decoder_heads),
        ):
            if dim % heads:
                raise ValueError(f"{part}_dim {dim} is not a multiple of {part}_heads {heads}; change one of them")
        if self.tokens > MAX_TOKENS:  # the header of a weight file is a config, too, and must not ask for terabytes
            raise ValueError(f"{self.tokens} tokens are more than {MAX_TOKENS}; take smaller clips or larger patches")
        return self

    @property
    def grid(self) -> TokenGrid:
        """The token grid after tubelet embedding."""
        side = self.image_size // self.patch_size
        return TokenGrid(self.frames // self.tubelet, side, side)

    @property
    def tokens(self) -> int:
        """Number of tokens, L."""
        return self.grid.tokens

    @property
    def patch_values(self) -> int:
        """Numbers in one patch, P = 3 · tubelet · patch²."""
        return 3 * self.tubelet * self.patch_size**2


_SIZES: dict[str, dict[str, int]] = {
    "marlin_vit_tiny": {
        "encoder_dim": 192, "encoder_depth": 12, "encoder_heads": 3,
        "decoder_dim": 128, "decoder_depth": 2, "decoder_heads": 2,
    },
    "marlin_vit_small": {
        "encoder_dim": 384, "encoder_depth": 12, "encoder_heads": 6,
        "decoder_dim": 192, "decoder_depth": 4, "decoder_heads": 3,
    },
    "marlin_vit_base": {
        "encoder_dim": 768, "encoder_depth": 12, "encoder_heads": 12,
        "decoder_dim": 384, "decoder_depth": 4, "decoder_heads": 6,
    },
    "marlin_vit_large": {
        "encoder_dim": 1024, "encoder_depth": 24, "encoder_heads": 16,
        "decoder_dim": 512, "decoder_depth": 12, "decoder_heads": 8,
    },
    "marlin_vit_huge": {
        "encoder_dim": 1280, "encoder_depth": 32, "encoder_heads": 16,
        "decoder_dim": 640, "decoder_depth": 12, "decoder_heads": 8,
    },
}  # fmt: skip

MODEL_NAMES = tuple(_SIZES)
"""The named sizes; small, base and large are the paper's, tiny is for laptops, huge follows VideoMAE."""


def model_config(name: str, **overrides: Any) -> ModelConfig:
    """Return the named size, with single fields changed by ``overrides``.

    Raises:
        ConfigError: unknown name or field, or a shape that does not fit together.
    """
    if name not in _SIZES:
        raise ConfigError(f"unknown model '{name}'; known: {', '.join(MODEL_NAMES)}")
    try:
        return ModelConfig.model_validate({"name": name, **_SIZES[name], **overrides})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"model {name}: {where + ': ' if where else ''}{first['msg'].removeprefix('Value error, ')}"
        ) from error


def size_name(encoder_dim: int, encoder_depth: int, tubelet: int, patch_size: int) -> str | None:
    """Return the named size whose encoder has this width, depth and tubelets; None where there is none."""
    wanted = (encoder_dim, encoder_depth, tubelet, patch_size)
    for name, size in ((name, model_config(name)) for name in MODEL_NAMES):
        if wanted == (size.encoder_dim, size.encoder_depth, size.tubelet, size.patch_size):
            return name
    return None
