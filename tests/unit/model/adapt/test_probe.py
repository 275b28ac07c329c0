"""The linear probe learns what is linear, on raw features of any scale."""

import numpy as np
import pytest
import torch

from infra.errors import TrainingError
from model.adapt.metrics import auc
from model.adapt.objective import TargetScale, class_weights, start_bias, target_scale, task_loss
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


def test_rare_labels_are_predicted_as_rarely_as_they_occur():
    """Catches a bias that starts at 0: 2000 steps of 1e-3 take it to −2 at most, where a label of 1 % still has 12 %.

    Labels then differ in their mean scores by less than in how often they occur, and micro AUC pays for it.
    """
    rng = np.random.default_rng(0)
    rates, w = np.geomspace(0.005, 0.4, 12), rng.normal(0, 0.35, (8, 12))

    def draw(count):
        x = rng.normal(0, 1, (count, 8))
        chances = 1 / (1 + np.exp(-(x @ w + np.log(rates / (1 - rates)))))
        return x.astype(np.float32), (rng.random(chances.shape) < chances).astype(np.float32)

    train, val, (test, test_y) = draw(400), draw(200), draw(1000)
    task = TaskSpec("t", "multilabel", tuple("abcdefghijkl"), lambda labels: None, "", balanced=False)
    scores = head_scores("multilabel", train_probe(task, *train, *val, ProbeConfig(), show=False).head, test)
    assert scores[:, :4].mean() == pytest.approx(test_y[:, :4].mean(), abs=0.02)
    assert auc(scores.ravel(), test_y.ravel()) > 0.83


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize(("kind", "width"), [("binary", 1), ("multilabel", 3), ("multiclass", 3), ("regression", 1)])
def test_no_other_bias_has_a_smaller_loss_at_the_start(kind, width, balanced):
    """Catches a start that forgets the class weights, or that of another kind: its gradient is not zero."""
    task = TaskSpec("t", kind, ("a", "b", "c")[:width], lambda labels: None, "", balanced=balanced)
    steps = np.arange(300)[:, None]
    y = (steps % np.array([40, 4, 2]) == 0)[:, :width] if kind in ("binary", "multilabel") else np.sqrt(steps // 50)
    y_NJ, scale = y.astype(np.float32), target_scale(task, y)
    y_NJ = y_NJ.round() if kind == "multiclass" else y_NJ
    weights_K = class_weights(task, y_NJ)
    bias_K = start_bias(task, y_NJ, weights_K).requires_grad_()
    task_loss(kind, bias_K.expand(300, width), scale.learnt(y_NJ), weights_K).backward()
    assert bias_K.grad.tolist() == pytest.approx([0] * width, abs=1e-6)


def test_classes_that_never_or_always_occur_start_at_a_finite_bias():
    y = np.array([[0, 1]] * 8, np.float32)
    task = TaskSpec("t", "multilabel", ("never", "always"), lambda labels: None, "")
    assert start_bias(task, y, class_weights(task, y)).tolist() == pytest.approx([-np.log(15), np.log(15)])
    task = TaskSpec("t", "multiclass", ("a", "b"), lambda labels: None, "")
    assert start_bias(task, y[:, :1], None).tolist() == pytest.approx([0, np.log(1 / 16)])


@pytest.mark.parametrize(("factor", "offset"), [(100, 0), (1e5, 3e5), (1e-4, 7)])
def test_a_regression_does_not_depend_on_the_unit_of_its_label(factor, offset):
    """Catches a loss in the label's unit: seconds are learnt and milliseconds are not, without a word."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (240, 6)).astype(np.float32)
    y = (x @ rng.normal(0, 1, (6, 1)) + 3).astype(np.float32)
    task = TaskSpec("t", "regression", ("age",), lambda labels: None, "")

    def predicted(y):
        found = train_probe(task, x[:160], y[:160], x[160:200], y[160:200], ProbeConfig(), show=False)
        return head_scores("regression", found.head, x[200:]), found.losses[found.best_epoch]

    plain, losses = predicted(y)
    other, other_losses = predicted(y * factor + offset)
    assert np.abs(plain - y[200:]).mean() < 0.05
    assert (other - offset) / factor == pytest.approx(plain, abs=0.02)
    assert other_losses == pytest.approx(losses, abs=1e-3)


def test_a_head_in_the_labels_unit_and_as_it_is_learnt_are_inverse():
    """Catches a fine-tuning that does not start from the probe, or that hands over another head than it trained."""
    head, x = torch.nn.Linear(4, 1), torch.randn(5, 4)
    scale = TargetScale(2000.0, 5.0)
    there = scale.to_label(head)
    assert torch.allclose(there(x), head(x) * 5 + 2000, atol=1e-3)
    assert torch.allclose(scale.from_label(there)(x), head(x), atol=1e-4)
    assert torch.allclose(scale.learnt([(2005.0,), (1990.0,)]), torch.tensor([[1.0], [-2.0]]))
    same = TargetScale().to_label(head)
    assert torch.equal(same.weight, head.weight)
    assert torch.equal(same.bias, head.bias)
    alike = target_scale(TaskSpec("t", "regression", ("x",), lambda labels: None, ""), np.full((7, 1), 0.1))
    assert alike.std == 1, "targets that are all alike"
