"""The losses, by hand."""

import pytest
import torch

from model.losses import adversarial_loss, discriminator_loss, gradient_penalty, reconstruction_loss


def test_reconstruction_is_the_mean_squared_error_of_raw_pixels_in_fp32():
    """Catches a sum, a normalisation by patch, and a bf16 mean that stops adding up."""
    pred = torch.full((2, 1000, 16), 0.5, dtype=torch.bfloat16)
    target = torch.full((2, 1000, 16), 0.25)
    loss = reconstruction_loss(pred, target)
    assert (loss.dtype, loss.item()) == (torch.float32, 0.0625)


def test_the_two_sides_of_the_wasserstein_loss_have_opposite_signs():
    """Catches a generator that helps the discriminator."""
    fake, real = torch.tensor([[1.0, 3.0]]), torch.tensor([[5.0, 7.0]])
    assert discriminator_loss(fake, real).item() == -4
    assert adversarial_loss(fake).item() == -2


@pytest.mark.parametrize(("slope", "penalty"), [(1.0, 0.0), (3.0, 4.0), (0.0, 1.0)])
def test_the_penalty_is_the_squared_distance_of_the_slope_from_one(slope, penalty):
    """Catches a norm over the batch in place of each patch's own."""
    direction = torch.zeros(16, 1)
    direction[3] = slope
    found = gradient_penalty(
        lambda x: (x @ direction).squeeze(-1), torch.rand(2, 5, 16), torch.rand(2, 5, 16), torch.rand(2, 1, 1)
    )
    assert found.item() == pytest.approx(penalty)


def test_the_penalty_is_taken_between_fake_and_real_and_reaches_the_discriminator_alone():
    """Catches gradients into the generator, and points outside the segment."""
    seen = []
    weight = torch.ones(4, requires_grad=True)
    fake = torch.zeros(1, 2, 4, requires_grad=True)

    def judge(points):
        seen.append(points.detach())
        return (points * weight).square().sum(dim=-1)

    gradient_penalty(judge, fake, torch.ones(1, 2, 4), torch.full((1, 1, 1), 0.25)).backward()
    assert torch.equal(seen[0], torch.full((1, 2, 4), 0.75))
    assert fake.grad is None
    assert weight.grad.abs().sum() > 0
