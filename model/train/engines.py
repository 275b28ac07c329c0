"""Two DeepSpeed engines, one for the generator and one for the discriminator, on any number of ranks, CPU or CUDA.

What breaks silently with two engines, and is decided here: gradients are not clipped (DeepSpeed's default of 1.0 would
rescale the discriminator's updates); the communication type is left alone in fp32; each engine has its own settings.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from infra.errors import ConfigError
from model.losses import reconstruction_loss
from model.train_config import OptimConfig, Precision

logger = logging.getLogger(__name__)

COLLECTIVE_TIMEOUT = timedelta(minutes=10)
"""A rank that does not take part in a collective for this long counts as lost."""
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Engines:
    """The two engines, which every rank holds; ``discriminator`` is None without adversarial training.

    ``device`` is where batches go, ``dtype`` what the networks compute in; ``reconstruction_loss`` is that of
    ``model.losses``, or what ``torch.compile`` made of it.
    """

    generator: Any
    discriminator: Any | None
    device: torch.device
    dtype: torch.dtype
    accumulation: int
    reconstruction_loss: Callable[[Tensor, Tensor], Tensor] = reconstruction_loss

    def set_learning_rate(self, rate: float, discriminator_scale: float = 1.0) -> None:
        """Set the rate of the coming step on both engines."""
        _set_rate(self.generator, rate)
        if self.discriminator is not None:
            _set_rate(self.discriminator, rate * discriminator_scale)


def resolve_precision(wanted: str) -> Precision:
    """Return what ``auto`` means here, and refuse what the device cannot do.

    Raises:
        ConfigError: fp16 on a CPU, or bf16 on a GPU that has none.
    """
    on_gpu = torch.cuda.is_available()
    if wanted == "auto":
        return "bf16" if on_gpu else "fp32"
    if wanted == "fp16" and not on_gpu:
        raise ConfigError("precision fp16 needs a GPU and there is none; take fp32 (or auto)")
    if wanted == "bf16" and on_gpu and not torch.cuda.is_bf16_supported():
        raise ConfigError("this GPU has no bf16; take precision fp16 or fp32")
    return wanted  # type: ignore[return-value]


def init_distributed() -> torch.device:
    """Join the process group that torchrun describes (gloo on CPU, NCCL on CUDA); return this rank's device.

    DeepSpeed is imported here, after its accelerator is chosen, and its shared-memory operator, which would compile
    for a minute, is switched off.
    """
    on_gpu = torch.cuda.is_available()
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if on_gpu else "cpu")
    os.environ.setdefault("LOCAL_SIZE", os.environ.get("LOCAL_WORLD_SIZE", "1"))
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    deepspeed.init_distributed(
        dist_backend="nccl" if on_gpu else "gloo", timeout=COLLECTIVE_TIMEOUT, dist_init_required=True, verbose=False
    )
    return device


def deepspeed_settings(
    micro_batch: int, accumulation: int, world: int, precision: Precision, zero_stage: int
) -> dict[str, Any]:
    """Return DeepSpeed's settings for one engine; derived, never kept by hand."""
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "train_batch_size": micro_batch * accumulation * world,
        "gradient_clipping": 0.0,
        "zero_optimization": {"stage": zero_stage},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }
    if precision == "bf16":
        settings |= {
            "bf16": {"enabled": True},
            "data_types": {"grad_accum_dtype": "fp32"},
            "communication_data_type": "fp32",
        }
    if precision == "fp16":
        settings |= {"fp16": {"enabled": True}}
    return settings


def build_engines(
    generator: nn.Module,
    discriminator: nn.Module | None,
    *,
    device: torch.device,
    optim: OptimConfig,
    micro_batch: int,
    accumulation: int,
    precision: Precision,
    zero_stage: int = 1,
    compiled: bool = False,
) -> Engines:
    """Wrap both networks. Collective: every rank calls it with equal weights.

    Args:
        generator: the masked autoencoder.
        discriminator: None trains by reconstruction alone.
        device: of this rank, from ``init_distributed``.
        optim: betas and weight decay; the rate is set before each step.
        micro_batch: clips per rank and forward.
        accumulation: forwards per optimiser step.
        precision: what the networks compute in; master weights and moments stay fp32.
        zero_stage: 0, 1 or 2.
        compiled: fuse both networks with ``torch.compile``; the names of their parameters stay.
    """
    import deepspeed

    settings = deepspeed_settings(micro_batch, accumulation, dist.get_world_size(), precision, zero_stage)
    for network in (generator, discriminator):
        if compiled and network is not None:
            network.compile(dynamic=False)  # shapes never change; symbolic ones made kernels that fail
    wrapped: list[Any] = []
    for network in (generator, discriminator):
        if network is None:
            wrapped.append(None)
            continue
        network.to(device)
        optimizer = torch.optim.AdamW(
            network.parameters(),
            lr=optim.base_lr,
            betas=optim.betas,
            weight_decay=optim.weight_decay,
            eps=1e-8,
            fused=True,
        )
        engine, *_ = deepspeed.initialize(model=network, optimizer=optimizer, config=dict(settings))
        wrapped.append(engine)
    limit_waiting()
    loss = torch.compile(reconstruction_loss, dynamic=False) if compiled else reconstruction_loss
    return Engines(wrapped[0], wrapped[1], device, DTYPES[precision], accumulation, loss)


def limit_waiting() -> None:
    """Give every process group our timeout: DeepSpeed makes some that ``init_distributed``'s misses."""
    for group in dist.distributed_c10d._world.pg_map:
        dist.set_timeout(COLLECTIVE_TIMEOUT, group)


@contextmanager
def frozen(network: nn.Module) -> Iterator[nn.Module]:
    """Let gradients pass through a network without reaching its parameters."""
    network.requires_grad_(False)
    try:
        yield network
    finally:
        network.requires_grad_(True)


def remember(engine: Any) -> Callable[[], None]:
    """Return what puts this rank's weights, masters and moments back to what they are now; for small networks."""
    base = getattr(engine.optimizer, "optimizer", engine.optimizer)  # ZeRO wraps ours around its parts
    parts = [*engine.module.parameters(), *(part for group in base.param_groups for part in group["params"])]
    kept = [(part, part.detach().clone()) for part in parts]
    moments = {part: {name: value.clone() for name, value in state.items()} for part, state in base.state.items()}

    @torch.no_grad()
    def undo() -> None:
        for part, value in kept:
            part.copy_(value)
        for part, state in base.state.items():
            for name, value in state.items():
                value.copy_(moments[part][name]) if part in moments else value.zero_()

    return undo


def full_state(engine: Any) -> dict[str, Tensor]:
    """Return a network's whole state on the CPU, parameters from the fp32 master copy. Collective."""
    from deepspeed.utils import safe_get_full_fp32_param

    state = {name: value.detach().cpu().clone() for name, value in engine.module.state_dict().items()}
    for name, parameter in engine.module.named_parameters():
        master = safe_get_full_fp32_param(parameter)
        if master is not None:
            state[name] = master.detach().float().cpu().reshape(parameter.shape).clone()
    return state


def _set_rate(engine: Any, rate: float) -> None:
    for group in engine.optimizer.param_groups:
        group["lr"] = rate
