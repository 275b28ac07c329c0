"""Learning rates by depth: early layers change less than late ones."""

from __future__ import annotations

import re
from typing import NamedTuple

from torch import nn

_BLOCK = re.compile(r"encoder\.encoder\.blocks\.(\d+)\.")


class LayerGroup(NamedTuple):
    """Parameters that share a learning rate."""

    parameters: list[nn.Parameter]
    lr: float


def layer_groups(classifier: nn.Module, lr: float, decay: float, head_lr: float) -> list[LayerGroup]:
    """Return the trainable parameters in groups, in a fixed order.

    Block i of n learns with ``lr · decay^(n − 1 − i)``, what comes before the blocks with ``lr · decay^n``, what comes
    after them with ``lr``, the head with ``head_lr``. A network without blocks of ours (a baseline) learns with ``lr``.

    Source: BEiT and VideoMAE's fine-tuning. Differs: the last block has the full rate (theirs is one power lower).
    """
    named = [(name, parameter) for name, parameter in classifier.named_parameters() if parameter.requires_grad]
    blocks = [int(match[1]) for name, _ in named if (match := _BLOCK.match(name))]
    depth = max(blocks, default=-1) + 1
    rates: dict[float, list[nn.Parameter]] = {}
    for name, parameter in named:
        rates.setdefault(_rate(name, depth, lr, decay, head_lr), []).append(parameter)
    return [LayerGroup(rates[rate], rate) for rate in sorted(rates)]


def _rate(name: str, depth: int, lr: float, decay: float, head_lr: float) -> float:
    if name.startswith("head."):
        return head_lr
    if match := _BLOCK.match(name):
        return float(lr * decay ** (depth - 1 - int(match[1])))
    is_before = depth > 0 and "patch_embedding" in name
    return float(lr * decay**depth) if is_before else lr
