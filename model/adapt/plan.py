"""Everything that can be refused before work begins: which windows are used, on which side, with which targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from infra.errors import ConfigError, DatasetError
from model.adapt.examples import Labelled, StoredClip, label_clips
from model.adapt.pixels import ClipPixels
from model.adapt.samples import ClipRow, Window, choose_windows
from model.adapt.split import SIDES, Side, Split, check_no_leak, split_windows
from model.adapt.task import Target, TaskSpec
from model.adapt.variants import AsStored, SelfBlended, Variants
from model.adapt_config import AdaptConfig
from pipeline.dataset.reader import DatasetReader


@dataclass(frozen=True)
class Plan:
    """What one run works on: the task, where pixels come from, the windows, their sides, and what to say of them."""

    task: TaskSpec
    pixels: ClipPixels
    windows: tuple[Window, ...]
    split: Split
    notes: tuple[str, ...]


def make_plan(
    cfg: AdaptConfig, reader: DatasetReader, clips: Sequence[StoredClip], frames: int, image_size: int
) -> Plan:
    """Choose windows and split them.

    Args:
        cfg: task, labels, split rule and windows.
        reader: of the dataset version; only region maps are read, and only where fakes are to be made.
        clips: what it lists (``examples.list_clips``).
        frames: of a window.
        image_size: side that the network takes.

    Raises:
        ConfigError, DatasetError: no label, no window, an empty side, one class only, or a leak; each with the cure.
    """
    labelled = label_clips(clips, cfg)
    variants, rows = _variants(labelled, cfg)
    pixels = ClipPixels(reader, variants, image_size, cfg.seed)
    kept = pixels.usable(rows)
    notes = list(labelled.notes)
    if len(kept) < len(rows):
        notes.append(f"{len(rows) - len(kept)} clips without face regions were left out.")
    windows = choose_windows(kept, cfg.data.windows_per_clip, cfg.data.max_windows, frames=frames)
    if not windows:
        what = "shows face regions; ingest videos with faces" if rows else f"bears {labelled.task.needs}"
        raise DatasetError(
            f"{cfg.data.dataset} version {reader.version.version} has {len(clips)} clips, and none {what}"
        )
    split = split_windows(
        windows,
        kind=cfg.data.split,
        test_fraction=cfg.data.test_fraction,
        val_fraction=cfg.data.val_fraction,
        min_groups=cfg.data.min_groups,
        gap_frames=cfg.data.gap_frames,
        seed=cfg.seed,
    )
    if cfg.data.held_out_manipulation:
        split = cross_manipulation(split, cfg.data.held_out_manipulation)
    check_no_leak(split)
    notes += check_classes(labelled.task, {side: targets_of(variants, split.sides[side]) for side in SIDES})
    return Plan(labelled.task, pixels, tuple(windows), split, tuple(notes))


def cross_manipulation(split: Split, held_out: str) -> Split:
    """Test on the fakes of one method and train on those of all others; real clips stay where they are.

    Raises:
        ConfigError: no fake of that method is on the test side, or none of another on the training side.
    """
    sides: dict[Side, tuple[Window, ...]] = {}
    for side in SIDES:
        is_test = side == "test"
        sides[side] = tuple(
            w for w in split.sides[side] if not w.clip.manipulation or (w.clip.manipulation == held_out) == is_test
        )
        if not any(w.clip.manipulation for w in sides[side]):
            there = sorted({w.clip.manipulation for w in split.sides[side]} - {""})
            raise ConfigError(
                f"data.held_out_manipulation={held_out} leaves no fake on the {side} side, which has "
                f"{', '.join(there) or 'none'}"
            )
    return replace(split, sides=sides)


def check_classes(task: TaskSpec, targets: Mapping[Side, Sequence[Target]]) -> list[str]:
    """Refuse a task that cannot be learnt or measured; return sentences about what is only partly there.

    Raises:
        DatasetError: training or test has one class only.
    """
    notes = []
    for side in ("train", "test"):
        columns = list(zip(*targets[side], strict=True))
        if task.kind == "regression":
            continue
        alike = [name for name, column in zip(task.outputs, columns, strict=False) if len(set(column)) < 2]
        if len(alike) == len(columns):
            only = task.describe(targets[side][0])
            raise DatasetError(
                f"the {side} side holds one class only ({only}, {len(targets[side])} samples); "
                "add videos of the others, or split otherwise (data.split)"
            )
        if alike and task.kind == "multilabel":
            shown = ", ".join(alike[:3]) + (", …" if len(alike) > 3 else "")
            notes.append(f"On the {side} side {len(alike)} of {len(columns)} labels have one class only ({shown}).")
        if task.kind == "multiclass" and len(seen := {t[0] for t in targets[side]}) < task.width:
            notes.append(f"On the {side} side {len(seen)} of {task.width} classes occur.")
    return notes


def targets_of(variants: Variants, windows: Sequence[Window]) -> list[Target]:
    """Return the targets of all samples of some windows, window by window."""
    return [target for window in windows for target in variants.targets(window)]


def _variants(labelled: Labelled, cfg: AdaptConfig) -> tuple[Variants, list[ClipRow]]:
    """Decide what samples are made of: labelled clips or, for deepfakes without labels, all not known as fake."""
    if cfg.task != "deepfake":
        return AsStored(), list(labelled.clips)
    found = {clip.target for clip in labelled.clips}
    both = found == {(0.0,), (1.0,)}
    if cfg.data.fakes == "labels" and not both:
        words = sorted(labelled.task.describe(target) for target in found if target)
        raise ConfigError(
            "data.fakes=labels needs clips labelled real and clips labelled fake; found "
            f"{' and '.join(words) or 'none'}; use data.fakes=self_blend"
        )
    if cfg.data.fakes == "self_blend" or not both:
        real = [clip for clip in labelled.clips if clip.target == (0.0,)]
        unlabelled = [replace(clip, subject=clip.video) for clip in labelled.unlabelled]
        return SelfBlended(), [*real, *unlabelled]
    clips = [c for c in labelled.clips if not cfg.data.manipulation or c.manipulation in ("", cfg.data.manipulation)]
    return AsStored(), clips
