"""One leg of a run whose number of ranks changes; ``torchrun … -m tests.support.world_scenarios OUT LEG``.

The first leg also goes on undisturbed to the end. Each leaves ``OUT/<setting>/<leg>.pt``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from model.train.checkpoint import load_checkpoint, save_checkpoint
from model.train.checkpoint_folder import list_checkpoints
from model.train.engines import Engines
from tests.support.engine_scenarios import Bench

LEG, LAST = 3, 9
"""Steps of a leg; where the run ends."""
SETTINGS: dict[str, dict[str, Any]] = {
    "zero 1": {},
    "zero 2": {"zero_stage": 2, "accumulation": 2},
    "zero 0": {"zero_stage": 0},
    "bf16": {"precision": "bf16"},
    "compiled": {"compiled": True},  # which must not rename what is saved
}


def run(bench: Bench, engines: Engines, steps: range) -> dict[str, Any]:
    """Step, and add the losses of whole batches: the mean over ranks."""
    found = bench.run(engines, steps)
    losses = torch.tensor([loss for loss, *_ in found["steps"]], dtype=torch.float64)
    dist.all_reduce(losses)
    return found | {"losses": (losses / bench.world).tolist()}


def main() -> None:
    """Run one leg of every setting."""
    torch.set_num_threads(1)
    out, leg = Path(sys.argv[1]), sys.argv[2]
    bench = Bench()
    for name, options in SETTINGS.items():
        folder = out / name
        engines = bench.engines(**options, seed=0 if leg == "first" else 7)
        state = None if leg == "first" else load_checkpoint(folder, engines, config_digest="digest")
        start = state.step if state else 0
        found = run(bench, engines, range(start, start + LEG))
        save_checkpoint(folder, engines, bench.state(start + LEG), keep_last=9)
        if leg == "first":
            found |= {"undisturbed": run(bench, engines, range(LEG, LAST))}
        if bench.rank == 0:
            found |= {"began": start, "folders": [path.name for path in list_checkpoints(folder)]}
            torch.save(found, folder / f"{leg}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
