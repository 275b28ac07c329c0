"""The masked autoencoder: its sizes, what it may see, and where its predictions belong."""

import subprocess
import sys

import pytest
import torch

from model.nets.config import model_config
from model.nets.factory import build_discriminator, build_encoder, build_mae
from model.nets.patch_embed import patchify, unpatchify

SMALL = model_config(
    "marlin_vit_tiny", image_size=32, frames=4, encoder_dim=24, encoder_depth=2, decoder_dim=16, decoder_depth=1
)
"""2 × 2 × 2 tokens."""


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build_mae(SMALL)


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    hidden = torch.tensor([[1, 0, 1, 1, 0, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1, 0]], dtype=torch.bool)
    return torch.rand(2, 3, 4, 32, 32), hidden


@pytest.mark.parametrize(("size", "millions"), [("small", 22.48), ("base", 87.43), ("large", 305.47)])
def test_encoders_have_the_published_numbers_of_parameters(size, millions):
    """Catches a missing bias, a k bias too many, and learnt positions."""
    with torch.device("meta"):
        encoder = build_encoder(model_config(f"marlin_vit_{size}"))
    # the publishers count their fixed position table, too
    count = sum(p.numel() for p in encoder.parameters()) + encoder.pos_embedding.emb.numel()
    assert count / 1e6 == pytest.approx(millions, abs=0.005)


def test_predictions_do_not_depend_on_what_is_hidden(network):
    """Catches an encoder that sees the answer: the loss would be splendid."""
    clip, hidden = inputs()
    first = network(clip, hidden)
    is_hidden_pixel = patchify(torch.ones_like(clip), 2, 16) * hidden[..., None]
    changed = torch.where(_as_clip(is_hidden_pixel) > 0, torch.rand_like(clip), clip)
    second = network(changed, hidden)
    assert torch.equal(first.pred_BMP, second.pred_BMP)
    assert not torch.equal(first.target_BMP, second.target_BMP)


def test_predictions_depend_on_every_visible_token_and_on_the_hidden_places(network):
    """Catches visible tokens that are dropped, and mask tokens without positions (all predictions would be alike)."""
    clip, hidden = inputs()
    first = network(clip, hidden).pred_BMP
    for token in (~hidden[0]).nonzero()[:, 0].tolist():
        patches = patchify(clip, 2, 16).clone()
        patches[0, token] += 0.5
        second = network(_as_clip(patches), hidden).pred_BMP
        assert not torch.allclose(first[0], second[0])
        assert torch.equal(first[1], second[1])
    assert not torch.allclose(first[0, 0], first[0, 1], atol=1e-4)


def test_targets_are_the_hidden_patches_in_token_order_in_fp32(network):
    """Catches targets of visible patches, and targets that a bf16 network rounds."""
    clip, hidden = inputs()
    wanted = torch.stack([patchify(clip, 2, 16)[i][hidden[i]] for i in range(2)])
    assert torch.equal(network.bfloat16()(clip, hidden).target_BMP, wanted)


def test_a_pooled_feature_is_the_norm_of_the_mean(network):
    """Catches the mean of the norms, which looks alike and is another feature."""
    clip, _ = inputs()
    with torch.no_grad():
        network.encoder.norm.bias.normal_()
        tokens = network.encoder._all_tokens(clip)
        pooled = network.encoder.pooled(clip)
        assert torch.equal(pooled, network.encoder.norm(tokens.mean(dim=1)))
        assert not torch.allclose(pooled, network.encoder(clip).mean(dim=1), atol=1e-3)


def test_recomputed_blocks_give_the_same_gradients(network):
    """Catches checkpointing that is on in one part only, or changes the result."""
    again = build_mae(SMALL.model_copy(update={"activation_checkpointing": True}))
    again.load_state_dict(network.state_dict())
    for made in (network, again):
        made(*inputs()).pred_BMP.square().mean().backward()
    other = dict(again.named_parameters())
    assert all(torch.allclose(value.grad, other[name].grad, atol=1e-7) for name, value in network.named_parameters())


def test_first_weights_are_those_of_method_section_4(network):
    """Catches PyTorch's own defaults inside encoder and decoder, and Xavier where the defaults belong."""
    qkv = network.encoder.blocks[0].attn.qkv.weight
    assert qkv.abs().max() <= (6 / (24 + 72)) ** 0.5
    assert qkv.abs().max() > 0.9 * (6 / (24 + 72)) ** 0.5
    assert not network.decoder.head.bias.any()
    assert 0.01 < network.decoder.mask_token.abs().max() <= 0.02  # cut off at one std, as in marlin-pytorch
    assert network.encoder.patch_embedding.projection.bias.any()
    assert network.enc_dec_proj.bias is None
    assert network.enc_dec_proj.weight.abs().max() <= 24**-0.5


def test_the_discriminator_gives_one_unbounded_score_for_each_patch():
    """Catches a sigmoid at its end, and another width: 1536 → 4 · decoder width → 1."""
    judge = build_discriminator(SMALL)
    assert judge(torch.rand(2, 6, 1536)).shape == (2, 6)
    assert judge.layers[0].linear.weight.shape == (64, 1536)
    assert judge(100 * torch.rand(2, 6, 1536)).abs().max() > 1
    assert judge.layers[0].activation(torch.tensor(-1.0)) == pytest.approx(-0.01)


def _as_clip(patches: torch.Tensor) -> torch.Tensor:
    return unpatchify(patches, (2, 2, 2), 2, 16)


def test_targets_alone_are_predicted_and_compared(network):
    """Catches predictions in another order than their targets, and mask tokens for what is left out."""
    clip, hidden = inputs()
    targets = hidden.clone()
    targets[0, [2, 5]] = targets[1, [1, 6]] = False
    pred_BMP, target_BMP = network(clip, hidden, targets)
    assert torch.equal(target_BMP, patchify(clip, 2, 16)[targets].reshape(2, -1, 1536))
    whole_BMP = network(clip, hidden).pred_BMP
    kept = targets[hidden].reshape(2, -1)
    assert pred_BMP.shape == (2, int(kept[0].sum()), 1536)
    assert not torch.allclose(pred_BMP, whole_BMP[kept].reshape_as(pred_BMP), atol=1e-4)
    assert torch.equal(network(clip, hidden, hidden).pred_BMP, whole_BMP)


def test_once_the_tokens_are_chosen_all_is_one_graph(network):
    """Catches a shape that depends on data: torch.compile would cut the network there and fuse less."""
    found = torch._dynamo.explain(network)(*inputs())
    work = [
        sum(node.op == "call_function" and "linear" in str(node.target) for node in made.graph.nodes)
        for made in found.graphs
    ]
    assert [count for count in work if count] == [1 + 3 * 4 + 1 + 1]  # embedding, three blocks, projection, head


def test_the_networks_do_not_load_the_compiler():
    """Catches a decorator of torch.compiler: it loads dynamo, 2.5 s of a core in every process that imports us."""
    code = "import sys, model.train.worker; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "shape", [(2, 3, 6, 32, 32), (2, 3, 4, 32, 64), (2, 3, 4, 48, 48), (2, 1, 4, 32, 32), (3, 4, 32, 32)]
)
def test_clips_of_another_size_are_refused_by_every_way_in(network, shape):
    """Catches longer or wider clips whose first tokens are taken, with the positions of others, without a word."""
    clip, (_, hidden) = torch.rand(shape), inputs()
    for call in (lambda: network(clip, hidden), lambda: network.encoder(clip), lambda: network.encoder.pooled(clip)):
        with pytest.raises(ValueError, match=r"the network takes \(B, 3, 4, 32, 32\)"):
            call()
