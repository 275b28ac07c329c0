"""Counted arithmetic is that of the operations which torch really runs."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from model.nets.config import ModelConfig, model_config
from model.nets.factory import build_discriminator, build_encoder, build_mae
from model.nets.flops import encoder_flops, step_flops

SHAPES = [
    model_config("marlin_vit_tiny", encoder_depth=2, image_size=112),
    model_config("marlin_vit_tiny", encoder_depth=1, decoder_depth=3, mlp_ratio=2, frames=8, patch_size=32),
]
VISIBLE = 7


def counted(run) -> int:
    """What torch counts, with the CPU's fused attention, which it leaves out, at 4·N²·D and 8·N²·D."""
    ops = torch.ops.aten
    attention = {
        ops._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
        ops._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, v, *_, **__: (
            2 * sdpa_flop_count(q, k, v)
        ),
    }
    with FlopCounterMode(display=False, custom_mapping=attention) as counter:
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize(("size", "billions"), [("small", 56.9), ("base", 180.3), ("large", 596.8)])
def test_encoders_cost_what_the_method_says(size, billions):
    """Whole encoders, in multiply-adds. Catches qkv or attention left out, as the published figures do."""
    assert encoder_flops(model_config(f"marlin_vit_{size}"), 1568) / 2e9 == pytest.approx(billions, abs=0.05)


@pytest.mark.parametrize("cfg", SHAPES)
def test_features_are_counted_as_torch_counts_them(cfg: ModelConfig):
    encoder = build_encoder(cfg)
    clip = torch.zeros(2, 3, cfg.frames, cfg.image_size, cfg.image_size)
    with torch.no_grad():
        assert counted(lambda: encoder(clip)) == 2 * encoder_flops(cfg, cfg.tokens)


@pytest.mark.parametrize("cfg", SHAPES)
@pytest.mark.parametrize("adversarial", [True, False])
def test_a_training_step_is_counted_as_torch_counts_it(cfg: ModelConfig, adversarial):
    """Catches gradients counted that nobody computes (of pixels, of a frozen discriminator), or left out."""
    generator, discriminator = build_mae(cfg), build_discriminator(cfg)
    clip = torch.zeros(2, 3, cfg.frames, cfg.image_size, cfg.image_size)
    is_masked_BL = torch.ones(2, cfg.tokens, dtype=torch.bool)
    is_masked_BL[:, :VISIBLE] = False

    def step() -> None:
        pred_BMP, target_BMP = generator(clip, is_masked_BL)
        loss = (pred_BMP - target_BMP).square().mean()
        if adversarial:
            discriminator(torch.cat([pred_BMP.detach(), target_BMP])).mean().backward()
            discriminator.requires_grad_(False)
            loss = loss + discriminator(pred_BMP).mean()
        loss.backward()

    predicted = cfg.tokens - VISIBLE
    assert counted(step) == 2 * step_flops(cfg, VISIBLE, predicted, adversarial=adversarial)
