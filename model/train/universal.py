"""A checkpoint for another number of ranks, through DeepSpeed's universal checkpoints.

ZeRO cuts masters and moments into as many parts as there are ranks. DeepSpeed's converter puts them together, one file
a parameter, and an engine of any size takes its part of each. Parameters, moments and Adam's step counts come back as
they were; buffers do not travel, and fp16's loss scale begins anew.
"""

from __future__ import annotations

import contextlib
import io
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def convert(source: Path, target: Path) -> None:
    """Write one engine's folder (``step-NNN/G``) as a universal checkpoint. One process does it, and prints nothing."""
    from deepspeed.checkpoint import ds_to_universal

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        ds_to_universal.main(
            Namespace(
                input_folder=str(source),
                output_folder=str(target),
                num_extract_workers=1,  # more would fork a process that holds a process group
                num_merge_workers=1,
                keep_temp_folder=False,
                strict=True,
                inject_missing_state=True,  # what Megatron's checkpoints hold and ours have no use for
            )
        )


@contextlib.contextmanager
def loading_universal(engine: Any) -> Iterator[None]:
    """Let ``engine.load_checkpoint`` read a universal checkpoint; its next one is an ordinary one again."""
    engine._config.load_universal_checkpoint = True
    try:
        yield
    finally:
        engine._config.load_universal_checkpoint = False
