"""Labels that known datasets keep in their folder names."""

from __future__ import annotations

import re
from pathlib import PurePath

from pipeline.rows import LabelValue

_FACEFORENSICS = re.compile(
    r"/(?P<kind>original|manipulated)_sequences/(?P<method>[^/]+)/(?P<compression>c\d+)/videos/(?P<stem>[^/]+)$"
)


def labels_of_path(path: str) -> tuple[dict[str, LabelValue], str | None]:
    """Return (labels, identity) that a file's path tells; ({}, None) outside the known layouts.

    FaceForensics++: ``original_sequences/<source>/<compression>/videos/NNN.mp4`` and
    ``manipulated_sequences/<method>/<compression>/videos/NNN_MMM.mp4`` give ``label`` (real, fake), ``manipulation``
    (None for originals becomes ``none``) and ``compression``. The identity is that of the first number: an original
    and the fakes painted into it never part in a split. (The donor's face, MMM, is not part of it.)
    """
    match = _FACEFORENSICS.search(PurePath(path).as_posix())
    if match is None:
        return {}, None
    fake = match["kind"] == "manipulated"
    labels: dict[str, LabelValue] = {
        "label": "fake" if fake else "real",
        "manipulation": match["method"] if fake else "none",
        "compression": match["compression"],
    }
    target = re.match(r"\d+", match["stem"])
    actor = re.match(r"\d+(?=__)", match["stem"])  # DeepFakeDetection's actors are numbered apart from the videos
    if target is None:
        return labels, None
    return labels, f"ffpp-actor-{actor[0]}" if actor else f"ffpp-{target[0]}"
