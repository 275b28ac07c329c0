"""Make the README's pictures from what ``make demo`` left: ``.venv/bin/python docs/make_pictures.py [WORK]``.

They show WolfgangLanger_Pexels.mp4 and nobody else: its licence allows it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

from infra.config import load_config
from infra.metrics import read_metrics
from infra.run import CONFIG_FILE
from model.charts import loss_curves
from model.mask_picture import draw_masks
from model.nets.config import model_config
from model.reconstruct import reconstruct
from model.reconstruct_config import ReconstructConfig
from model.train.sources import open_source
from model.train_config import PretrainConfig
from pipeline.config import IngestConfig, SplitConfig
from pipeline.dataset.format import REGION_STRIDE
from pipeline.dataset.reader import DatasetReader, open_dataset
from pipeline.faces.overlay import overlay_regions
from pipeline.ingest import ingest
from pipeline.media.decode import decode_clip

IMAGES = Path(__file__).resolve().parent / "images"
VIDEO = "WolfgangLanger_Pexels.mp4"
TILE, COLUMNS = 112, 8


def main(work: Path) -> None:
    """Write ``docs/images/*``."""
    run = max((work / "runs").glob("pretrain-*"), key=lambda folder: folder.stat().st_mtime)
    video = work / "samples" / VIDEO
    IMAGES.mkdir(exist_ok=True)
    (IMAGES / "losses.png").write_bytes(loss_curves(read_metrics(run)))
    with tempfile.TemporaryDirectory() as folder:
        dataset = f"{folder}/dataset"
        ingest(IngestConfig(sources=(str(video),), out=dataset, split=SplitConfig(assign={"*": "train"})))
        _save("regions", _regions(open_dataset(dataset)))
        trained = load_config(PretrainConfig, run / CONFIG_FILE)
        sample = open_source(trained, open_dataset(dataset, 1), trained.data.split).load(0)
        shape = model_config(trained.model.name, **trained.model.overrides)
        _save("masks", _decoded(draw_masks(sample, shape, trained.mask.ratio, seed=trained.seed)))
        drawn = reconstruct(ReconstructConfig(video=str(video), weights=str(run), out=f"{folder}/r.png", clips=1))
        _save("reconstruction", _decoded(drawn.read_bytes()))


def _regions(reader: DatasetReader) -> np.ndarray:
    """Stored crops, spread over the clips, above the same crops with their regions; BGR."""
    clips = [(entry.unit, row) for entry in reader.shards for row in range(entry.clips)]
    columns = []
    for place in np.linspace(0, len(clips) - 1e-6, COLUMNS, endpoint=False):
        clip = reader.read_clip(*clips[int(place)])
        entry = int(place % 1 * len(clip.regions))
        crop = decode_clip(clip.mp4, [entry * REGION_STRIDE])[0]
        pair = (crop, overlay_regions(crop, clip.regions[entry]))
        columns.append(np.vstack([cv2.resize(image, (TILE, TILE), interpolation=cv2.INTER_AREA) for image in pair]))
    return cv2.cvtColor(np.hstack(columns), cv2.COLOR_RGB2BGR)


def _decoded(png: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)


def _save(name: str, image_HWC: np.ndarray) -> None:
    cv2.imwrite(str(IMAGES / f"{name}.jpg"), image_HWC, [cv2.IMWRITE_JPEG_QUALITY, 88])


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "work/demo"))
