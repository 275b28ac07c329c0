"""The weights that a run leaves, at its end and in every checkpoint: both networks in fp32, and their provenance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from infra.config import config_digest
from model.licences import weight_licences
from model.provenance import labels_behind
from model.train.engines import Engines, full_state
from model.train.networks import first_weights, model_shape
from model.train_config import PretrainConfig
from model.weights import DISCRIMINATOR, save_weights
from pipeline.dataset.reader import DatasetReader


@dataclass(frozen=True)
class WeightWriter:
    """Writes the engines' weights as one file that says what they were trained on and under whose licences.

    ``begun_with`` are the facts of ``start_facts``; rank 0 needs them.
    """

    cfg: PretrainConfig
    engines: Engines
    reader: DatasetReader
    begun_with: Mapping[str, Any]

    def __call__(self, path: Path, step: int) -> None:
        """Write the weights as they are after ``step``. Collective; rank 0 writes."""
        state = full_state(self.engines.generator)
        if self.engines.discriminator is not None:
            judge = full_state(self.engines.discriminator)
            state |= {f"{DISCRIMINATOR}{name}": value for name, value in judge.items()}
        if dist.get_rank() == 0:
            cfg, version = self.cfg, self.reader.version
            provenance = {
                "kind": "pretrain",
                "dataset": self.reader.storage.uri,
                "dataset_version": version.version,
                "recipe_digest": version.recipe_digest,
                "source_licences": list(version.source_licences),
                "licences": [licence.model_dump() for licence in version.licences],
                "config_digest": config_digest(cfg),
                "init_from": cfg.init_from,
                **self.begun_with,
                "steps": step,
                "clips_seen": step * cfg.global_batch,
                "mask": cfg.mask.model_dump(),
            }
            save_weights(path, state, model_shape(cfg), provenance)
        dist.barrier()


def start_facts(cfg: PretrainConfig) -> dict[str, Any]:
    """Return what the weights that a run begins with hand on to its own: licences, and labels that they learnt.

    Errors as ``first_weights``.
    """
    start = first_weights(cfg)
    if start is None:
        return {}
    told = start.provenance
    return {"start_licences": list(weight_licences(told)), "labels_learnt": list(labels_behind(told))}
