"""The linear probe learns what is linear, on raw features of any scale."""

import numpy as np
import pytest
import torch

from infra.errors import TrainingError
from model.adapt.objective import class_weights, task_loss
from model.adapt.probe import feature_statistics, fold_standardisation, head_scores, train_probe
from model.adapt.task import TaskSpec
from model.adapt.tasks import deepfake
from model.adapt_config import ProbeConfig

CFG = ProbeConfig(epochs=300, lr=1e-2)
TASK = deepfake()


def _problem(count: int = 80, seed: int = 0, scale: float = 1.0):
    """Real and fake differ along one direction; the other dimensions are noise of very different sizes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    features = rng.normal(0, 1, (count, 12)) * np.logspace(-3, 2, 12)
    features[:, 0] += 0.004 * labels
    return (features * scale + 3).astype(np.float32), labels[:, None].astype(np.float32)


def _auc(scores, labels):
    return (scores[labels == 1][:, None] > scores[labels == 0][None]).mean()


def test_it_learns_a_direction_that_is_tiny_beside_the_others():
    """Catches a probe without feature normalisation (pain 3): the deciding feature is 10⁵ times smaller."""
    (train, y), (val, val_y), (test, test_y) = (_problem(seed=s) for s in range(3))
    found = train_probe(TASK, train, y, val, val_y, CFG, show=False)
    assert _auc(head_scores("binary", found.head, test), test_y) > 0.95
    raw = train_probe(TASK, train, y, val, val_y, ProbeConfig(epochs=300, lr=1e-2, standardise=False), show=False)
    assert _auc(head_scores("binary", raw.head, test), test_y) < 0.9


def test_the_folded_head_gives_on_raw_features_what_the_probe_gives_on_standardised_ones():
    train, _ = _problem()
    mean, std = feature_statistics(train)
    probe = torch.nn.Linear(12, 1)
    standardised = torch.from_numpy(((train - mean) / std).astype(np.float32))
    folded = fold_standardisation(probe, mean, std)
    assert torch.allclose(folded(torch.from_numpy(train)), probe(standardised), atol=1e-3)
    assert not torch.allclose(folded.weight, probe.weight)


def test_statistics_come_from_the_training_side_alone():
    """Catches standardisation over all samples: the validation side may only choose the epoch."""
    (train, y), (val, val_y) = _problem(), _problem(seed=1)
    one = train_probe(TASK, train, y, val, val_y, ProbeConfig(epochs=1), show=False)
    two = train_probe(TASK, train, y, val * 100, val_y, ProbeConfig(epochs=1), show=False)
    assert torch.equal(one.head.weight, two.head.weight)


def test_the_kept_epoch_is_the_one_with_the_least_validation_loss():
    train, y = _problem(16)
    val, val_y = (
        np.random.default_rng(5).normal(0, 1, (40, 12)).astype(np.float32),
        (np.arange(40) % 2)[:, None].astype(np.float32),
    )
    found = train_probe(TASK, train, y, val, val_y, CFG, show=False)
    val_losses = [v for _, v in found.losses]
    assert found.best_epoch == int(np.argmin(val_losses))
    scores = head_scores("binary", found.head, val)
    loss = -np.mean(val_y * np.log(scores) + (1 - val_y) * np.log(1 - scores))
    assert loss == pytest.approx(min(val_losses), rel=1e-3)


def test_the_same_input_gives_the_same_head():
    (train, y), (val, val_y) = _problem(), _problem(seed=1)
    one, two = (train_probe(TASK, train, y, val, val_y, CFG, show=False).head for _ in range(2))
    assert torch.equal(one.weight, two.weight)
    assert torch.equal(one.bias, two.bias)


def test_a_constant_feature_does_no_harm_and_constant_features_are_refused():
    (train, y), (val, val_y) = _problem(), _problem(seed=1)
    train[:, 3] = val[:, 3] = 7.0
    assert np.isfinite(head_scores("binary", train_probe(TASK, train, y, val, val_y, CFG, show=False).head, val)).all()
    with pytest.raises(TrainingError, match="same features"):
        train_probe(TASK, np.ones_like(train), y, val, val_y, CFG, show=False)
    train[0, 0] = np.nan
    with pytest.raises(TrainingError, match="not finite"):
        train_probe(TASK, train, y, val, val_y, CFG, show=False)


def test_every_kind_of_target_is_learnt():
    """Catches a loss or a score that fits one kind only."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (240, 6)).astype(np.float32)
    targets = {
        "multiclass": x[:, :3].argmax(axis=1)[:, None].astype(np.float32),
        "multilabel": (x[:, :3] > 0.5).astype(np.float32),
        "regression": (x[:, :1] * 3 + 20).astype(np.float32),
    }
    for kind, y in targets.items():
        task = TaskSpec("t", kind, ("a", "b", "c")[: 1 if kind == "regression" else 3], lambda labels: None, "")
        found = train_probe(
            task, x[:160], y[:160], x[160:200], y[160:200], ProbeConfig(epochs=400, lr=5e-2), show=False
        )
        scores = head_scores(kind, found.head, x[200:])
        if kind == "multiclass":
            assert np.allclose(scores.sum(axis=1), 1)
            assert (scores.argmax(axis=1) == y[200:, 0]).mean() > 0.9
        elif kind == "multilabel":
            assert ((scores > 0.5) == y[200:]).mean() > 0.95
        else:
            assert np.abs(scores - y[200:]).mean() < 0.2


def test_a_rare_class_is_not_ignored():
    """Catches imbalance that is not handled: 1 fake in 20 would make "real" the answer to everything."""
    rng = np.random.default_rng(0)
    y = (np.arange(400) % 20 == 0)[:, None].astype(np.float32)
    x = rng.normal(0, 1, (400, 4)).astype(np.float32) + y
    plain = TaskSpec("t", "binary", ("fake",), lambda labels: None, "", balanced=False)
    recall = {}
    for task in (TASK, plain):
        found = train_probe(task, x[:200], y[:200], x[200:300], y[200:300], CFG, show=False)
        recall[task.balanced] = (head_scores("binary", found.head, x[300:])[y[300:, 0] == 1] > 0.5).mean()
    assert recall[True] > 0.7 > 0.3 > recall[False]
    assert class_weights(TASK, y).tolist() == pytest.approx([19])
    assert class_weights(plain, y) is None


@pytest.mark.parametrize(("kind", "width"), [("binary", 1), ("multilabel", 3), ("multiclass", 3), ("regression", 1)])
def test_the_loss_is_the_same_however_a_batch_is_shared_out(kind, width):
    """Catches class weights that vanish with one sample a rank, or in a validation that goes one window at a time."""
    generator = torch.Generator().manual_seed(0)
    logits_BK = torch.randn(8, width, generator=generator)
    targets_BJ = (
        torch.arange(8)[:, None]
        % (3 if kind == "multiclass" else 2)
        * torch.ones(1, width if kind == "multilabel" else 1)
    )
    weights_K = torch.tensor([0.2, 5.0, 1.0])[:width]
    whole = task_loss(kind, logits_BK, targets_BJ, weights_K)
    singly = [task_loss(kind, logits_BK[i : i + 1], targets_BJ[i : i + 1], weights_K) for i in range(8)]
    assert torch.stack(singly).mean() == pytest.approx(float(whole), abs=1e-6)
    assert kind == "regression" or whole != pytest.approx(float(task_loss(kind, logits_BK, targets_BJ)), abs=1e-3)


def test_the_defaults_outlast_a_direction_that_misleads_at_first():
    """Catches a plateau counted in steps: a rate that was halved every seven of them was nothing before it had learnt.

    Features lie near one direction, which leans to the labels in training and away from them in validation; until the
    true directions are found, validation gets worse.
    """
    rng = np.random.default_rng(0)

    def draw(count, lean):
        y = rng.integers(0, 2, (count, 1)).astype(np.float32)
        x = rng.normal(0, 1, (count, 1)) + lean * (2 * y - 1) + 0.05 * rng.normal(0, 1, (count, 24))
        x[:, :4] += 0.5 * y
        return x.astype(np.float32), y

    (train, y), (val, val_y), (test, test_y) = draw(80, 0.15), draw(40, -0.15), draw(200, -0.15)
    found = train_probe(TASK, train, y, val, val_y, ProbeConfig(), show=False)
    assert _auc(head_scores("binary", found.head, test)[:, 0], test_y[:, 0]) > 0.95
