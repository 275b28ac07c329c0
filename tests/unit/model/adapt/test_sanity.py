"""The overfit-one-batch check passes where learning is possible and says so where it is not."""

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from infra.errors import TrainingError
from model.adapt.sanity import overfit_one_batch


def _loss(net, x, y):
    return lambda: binary_cross_entropy_with_logits(net(x)[:, 0], y)


def test_a_batch_that_can_be_learnt_passes():
    torch.manual_seed(0)
    net, x, y = torch.nn.Linear(16, 1), torch.randn(8, 16), torch.tensor([0.0, 1.0] * 4)
    result = overfit_one_batch(_loss(net, x, y), torch.optim.Adam(net.parameters(), lr=0.1), 60)
    assert result.last < result.first / 2
    assert "60 steps" in result.sentence()


def test_alike_inputs_with_different_labels_fail_with_one_sentence():
    """Catches a check that looks at the last training loss only and never compares."""
    net, x, y = torch.nn.Linear(16, 1), torch.ones(8, 16), torch.tensor([0.0, 1.0] * 4)
    with pytest.raises(TrainingError, match="cannot be learnt by heart"):
        overfit_one_batch(_loss(net, x, y), torch.optim.Adam(net.parameters(), lr=0.1), 60)


def test_a_loss_that_becomes_nan_fails():
    net = torch.nn.Linear(2, 1)
    with pytest.raises(TrainingError, match="nan"):
        overfit_one_batch(
            lambda: net(torch.full((1, 2), float("inf"))).sum() * 0, torch.optim.SGD(net.parameters(), lr=1.0), 2
        )
