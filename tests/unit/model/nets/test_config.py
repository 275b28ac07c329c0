"""Any size and any shape that fits together works; what does not is one sentence with the cure."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from infra.errors import ConfigError
from model.masking import make_mask
from model.nets.config import MODEL_NAMES, model_config
from model.nets.factory import build_discriminator, build_encoder, build_mae
from model.nets.patch_embed import patchify, unpatchify
from model.reconstruct import reconstruct_clip


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"frames": 15}, "frames 15 is not a multiple of tubelet 2"),
        ({"image_size": 100}, "image_size 100 is not a multiple of patch_size 16"),
        ({"encoder_heads": 5}, "encoder_dim 192 is not a multiple of encoder_heads 5"),
        ({"decoder_dim": 127}, "decoder_dim 127 is not a multiple"),
        ({"patch_size": 12}, "patch_size"),
        ({"frames": 1024, "image_size": 1024}, "tokens are more than"),
        ({"depth": 3}, "depth"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(overrides, sentence):
    with pytest.raises(ConfigError, match=sentence):
        model_config("marlin_vit_tiny", **overrides)


def test_an_unknown_size_names_the_known_ones():
    with pytest.raises(ConfigError, match="marlin_vit_small"):
        model_config("marlin_vit_medium")


def test_the_grid_of_the_released_sizes_has_1568_tokens_of_1536_numbers():
    config = model_config("marlin_vit_base")
    assert (config.grid, config.tokens, config.patch_values) == ((8, 14, 14), 1568, 1536)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_every_named_size_builds_and_its_parts_fit(name):
    """Catches a size that nobody ever built; on the meta device, since huge takes 2.6 GB."""
    config = model_config(name)
    with torch.device("meta"):
        network, judge = build_mae(config), build_discriminator(config)
        clip_BCTHW = torch.empty(1, 3, config.frames, config.image_size, config.image_size)
        assert network.encoder(clip_BCTHW).shape == (1, 1568, config.encoder_dim)
        visible_BVD = network.enc_dec_proj(torch.empty(1, 1568, config.encoder_dim))
        assert visible_BVD.shape[-1] == network.decoder.mask_token.shape[-1]
        assert judge(torch.empty(1, 5, config.patch_values)).shape == (1, 5)


@pytest.mark.parametrize(("name", "millions"), [("tiny", 5.6), ("huge", 630.7)])
def test_the_sizes_beside_the_paper_s_are_those_of_vit(name, millions):
    """ViT-Ti (DeiT) and ViT-H of VideoMAE: 12·L·D² and the tubelet embedding. Catches a wrong width, depth or ratio."""
    with torch.device("meta"):
        encoder = build_encoder(model_config(f"marlin_vit_{name}"))
    assert sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(millions, rel=0.01)


@given(
    frames=st.sampled_from([1, 2, 3, 6, 8, 32]),
    tubelet=st.sampled_from([1, 2, 3]),
    side=st.integers(1, 4),
    patch=st.sampled_from([8, 16, 24]),
    ratio=st.sampled_from([0.5, 0.75, 0.9]),
)
@settings(deadline=None, max_examples=25)
def test_any_frame_count_image_and_patch_size_trains(frames, tubelet, side, patch, ratio):
    """Catches 16 frames, 224 pixels, 16-pixel patches or two-frame tubelets written into the networks."""
    assume(frames % tubelet == 0)
    shape = {"encoder_dim": 12, "encoder_depth": 1, "decoder_dim": 8, "decoder_depth": 1, "encoder_heads": 3}
    config = model_config(
        "marlin_vit_tiny", frames=frames, tubelet=tubelet, image_size=side * patch, patch_size=patch, **shape
    )
    keep = int(round(config.tokens * (1 - ratio), 6))
    assume(keep > 0)
    assert config.grid == (frames // tubelet, side, side)
    no_face = torch.zeros(2, *config.grid, dtype=torch.int32)
    is_masked_BL = make_mask("random", no_face, config.grid, ratio, torch.arange(2))
    network, judge = build_mae(config), build_discriminator(config)
    clip_BCTHW = torch.randint(0, 256, (2, 3, frames, side * patch, side * patch), dtype=torch.uint8)
    pred_BMP, target_BMP = network(clip_BCTHW, is_masked_BL)
    assert pred_BMP.shape == target_BMP.shape == (2, config.tokens - keep, 3 * tubelet * patch * patch)
    ((pred_BMP - target_BMP).square().mean() - judge(pred_BMP).mean()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    drawn = reconstruct_clip(network, clip_BCTHW[0].permute(1, 2, 3, 0), is_masked_BL[0])
    visible_BLP = patchify(torch.ones(clip_BCTHW.shape), tubelet, patch)[:1] * ~is_masked_BL[:1, :, None]
    seen_THWC = (unpatchify(visible_BLP, config.grid, tubelet, patch)[0].permute(1, 2, 3, 0) > 0).numpy()
    assert (drawn.rebuilt_THWC == drawn.original_THWC)[seen_THWC].all()
