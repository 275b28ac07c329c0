"""The main job: videos → dataset → encoder → deepfake detector → features → report, as one Prefect flow.

Every step is a command that can be repeated and then does nothing twice, so a flow that died is simply run again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import State, Task, flow, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.client.schemas.objects import TaskRun

from flows.config import EndToEndConfig
from flows.outputs import EndToEndOutputs
from flows.report import write_end_to_end_report
from infra.config import config_digest
from infra.errors import TransientError
from infra.run import RunContext
from model.adapt.report import AdaptReport
from model.adapt.run import adapt
from model.extract import ExtractedVideo, extract
from model.pretrain import PretrainReport, pretrain
from pipeline.config import IngestConfig
from pipeline.ingest import IngestReport, ingest
from pipeline.samples import fetch_samples

RETRIES = 2
RETRY_DELAYS_S = [2.0, 10.0]
"""Only steps that read from elsewhere are tried again, and only for failures that may pass."""


def _may_pass(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Tell Prefect whether a failed task is worth another try."""
    try:
        state.result()
    except TransientError:
        return True
    except Exception:  # every other failure is for good, whatever it is
        return False
    return False


@task(
    name="samples",
    task_run_name="samples",
    retry_condition_fn=_may_pass,
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAYS_S,
)
def samples_task(folder: Path) -> list[Path]:
    """Fetch the sample videos."""
    return fetch_samples(folder)


@task(
    name="ingest",
    task_run_name="ingest into {cfg.out}",
    retry_condition_fn=_may_pass,
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAYS_S,
)
def ingest_task(cfg: IngestConfig, runs: Path) -> IngestReport:
    """Bring the dataset up to date."""
    with RunContext.create("ingest", cfg, root=runs) as run:
        report = ingest(cfg, run)
    create_table_artifact(
        key="funnel",
        table=[{"step": name, "count": count} for name, count in report.counts.model_dump().items()],
        description=f"Dataset version {report.version}; rejected: {report.rejects or 'none'}",
    )
    return report


@task(name="pretrain", task_run_name="pretrain {cfg.pretrain.model.name}")
def pretrain_task(cfg: EndToEndConfig, dataset: str, version: int) -> PretrainReport:
    """Pretrain on the pinned dataset version, or go on with the run that this config already began."""
    data = cfg.pretrain.data.model_copy(update={"dataset": dataset, "version": version})
    settings = cfg.pretrain.model_copy(update={"data": data})
    report = pretrain(settings, Path(cfg.work) / "runs" / f"pretrain-{config_digest(settings)[:12]}")
    create_markdown_artifact(
        key="pretraining",
        markdown=(
            f"{report.steps} steps on dataset version {report.dataset_version}; reconstruction loss "
            f"{report.first['loss/reconstruction']:.4f} → {report.last['loss/reconstruction']:.4f}; "
            f"error over that of the mean colour: {report.score.against_mean_colour:.2f} ({report.scored_on} clips)"
        ),
    )
    return report


@task(name="adapt", task_run_name="adapt to deepfake detection")
def adapt_task(cfg: EndToEndConfig, dataset: str, version: int, weights: Path) -> AdaptReport:
    """Train and measure the deepfake detector."""
    data = cfg.adapt.data.model_copy(update={"dataset": dataset, "version": version})
    cache = cfg.adapt.cache or str(Path(cfg.work) / "cache")
    task = {"task": "deepfake", "data": data, "weights": str(weights), "cache": cache}
    settings = cfg.adapt.model_copy(update=task)
    report = adapt(settings, Path(cfg.work) / "runs" / f"adapt-{config_digest(settings)[:12]}")
    create_table_artifact(
        key="adaptation",
        table=[
            {"mode": row.mode, "encoder": row.init, "accuracy": row.accuracy, "AUC": row.auc} for row in report.rows
        ],
        description=" ".join(report.notes),
    )
    return report


@task(name="extract", task_run_name="extract features of {video.name}")
def extract_task(cfg: EndToEndConfig, video: Path, weights: Path) -> ExtractedVideo:
    """Extract the features of one video."""
    given = {"videos": (str(video),), "weights": str(weights), "out": str(Path(cfg.work) / "features")}
    return extract(cfg.extract.model_copy(update=given))[0]


@task(name="report", task_run_name="report")
def report_task(outputs: EndToEndOutputs) -> Path:
    """Write the page."""
    path = write_end_to_end_report(outputs)
    create_link_artifact(key="report", link=path.absolute().as_uri(), link_text="the report")
    return path


@flow(name="end_to_end", flow_run_name="main job into {cfg.work}", log_prints=False)
def end_to_end(cfg: EndToEndConfig) -> EndToEndOutputs:
    """Run the main job and return where everything lies.

    Raises:
        ProjectError: the sentence of the step that could not be done.
    """
    work = Path(cfg.work)
    samples = samples_task(work / "samples") if cfg.use_samples else []
    sources = (*cfg.ingest.sources, *((str(work / "samples"),) if cfg.use_samples else ()))
    ingest_cfg = cfg.ingest.model_copy(update={"sources": sources, "out": str(work / "dataset")})
    ingested = ingest_task(ingest_cfg, work / "runs")
    pretrained = pretrain_task(cfg, ingest_cfg.out, ingested.version)
    adapted = adapt_task(cfg, ingest_cfg.out, ingested.version, pretrained.weights)
    videos = [path for path in samples if path.name.startswith("single_face")] or samples[:1]
    extracted = extract_task(cfg, videos[0], pretrained.weights) if videos else None
    outputs = EndToEndOutputs(
        config=cfg, dataset=ingest_cfg.out, ingested=ingested, pretrained=pretrained, adapted=adapted,
        extracted=extracted, report=work / "report.html",
    )  # fmt: skip
    report_task(outputs)
    return outputs
