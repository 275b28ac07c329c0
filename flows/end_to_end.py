"""The main job: videos → dataset → encoder → deepfake detector → features → report, as one Prefect flow.

Every step is a command that can be repeated and then does nothing twice, so a flow that died is simply run again.
"""

from __future__ import annotations

from pathlib import Path

from prefect import flow, task

from flows.artifacts import link
from flows.config import EndToEndConfig
from flows.job import run_job
from flows.outputs import EndToEndOutputs
from flows.report import write_end_to_end_report
from flows.runs import settled_folder
from flows.tasks import adapt_task, ingest_task, pretrain_task, samples_task
from infra.run import new_run_folder
from model.extract import ExtractedVideo, extract


@task(name="extract", task_run_name="extract features of {video.name}")
def extract_task(cfg: EndToEndConfig, video: Path, weights: Path) -> ExtractedVideo:
    """Extract the features of one video."""
    given = {"videos": (str(video),), "weights": str(weights), "out": str(Path(cfg.work) / "features")}
    return run_job(extract, cfg.extract.model_copy(update=given))[0]


@task(name="report", task_run_name="report")
def report_task(outputs: EndToEndOutputs) -> Path:
    """Write the page."""
    path = write_end_to_end_report(outputs)
    link("report", path, "the report")
    return path


@flow(name="end_to_end", flow_run_name="main job into {cfg.work}", log_prints=False)
def end_to_end_flow(cfg: EndToEndConfig) -> EndToEndOutputs:
    """Run the main job and return where everything lies.

    Raises:
        ProjectError: the sentence of the step that could not be done.
    """
    work = Path(cfg.work)
    runs = str(work / "runs")
    samples = samples_task(work / "samples") if cfg.use_samples else []
    sources = (*cfg.ingest.sources, *((str(work / "samples"),) if cfg.use_samples else ()))
    ingest_cfg = cfg.ingest.model_copy(update={"sources": sources, "out": str(work / "dataset")})
    ingested = ingest_task(ingest_cfg, new_run_folder("ingest", ingest_cfg, root=runs))
    pinned = {"dataset": ingest_cfg.out, "version": ingested.version}
    pretrain_cfg = cfg.pretrain.model_copy(update={"data": cfg.pretrain.data.model_copy(update=pinned)})
    pretrained = pretrain_task(pretrain_cfg, settled_folder(runs, "pretrain", pretrain_cfg))
    adapt_cfg = cfg.adapt.model_copy(
        update={
            "task": "deepfake", "data": cfg.adapt.data.model_copy(update=pinned), "weights": str(pretrained.weights),
            "cache": cfg.adapt.cache or str(work / "cache"),
        }
    )  # fmt: skip
    adapted = adapt_task(adapt_cfg, settled_folder(runs, "adapt", adapt_cfg))
    videos = [path for path in samples if path.name.startswith("single_face")] or samples[:1]
    extracted = extract_task(cfg, videos[0], pretrained.weights) if videos else None
    outputs = EndToEndOutputs(
        config=cfg, dataset=ingest_cfg.out, ingested=ingested, pretrained=pretrained, adapted=adapted,
        extracted=extracted, report=work / "report.html",
    )  # fmt: skip
    report_task(outputs)
    return outputs
