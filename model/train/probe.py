"""Is the encoder collapsing? Its features of held-out clips, without any training, in three numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def probe_features(features_ND: Tensor, videos: Sequence[str]) -> dict[str, float]:
    """Return what the features of N clips tell, each clip given as its pooled feature and its video's name.

    - ``probe/spread``: standard deviation over clips of unit-length features, mean over dimensions, times √D. Near 1
      when clips lie all around, 0 when they fall together (Chen & He, 2021, arXiv:2011.10566, figure 2).
    - ``probe/effective_rank``: directions that the features use, from 1 to min(N, D): the exponential of the entropy
      of the singular values (RankMe, Garrido et al., 2023, arXiv:2210.02885; ours are of centred features).
    - ``probe/same_video(%)``: how often a clip's nearest neighbour (cosine, centred) is of its own video, over the
      clips that have another of their video; ``probe/same_video_by_chance(%)`` beside it. Left out without such clips.

    Args:
        features_ND: fp32, N ≥ 2.
        videos: N names.
    """
    unit_ND = torch.nn.functional.normalize(features_ND, dim=1)
    centred_ND = features_ND - features_ND.mean(dim=0)
    share = torch.linalg.svdvals(centred_ND)
    share = share / share.sum().clamp_min(1e-12)
    entropy = -(share * share.clamp_min(1e-12).log()).sum()
    found = {
        "probe/spread": float(unit_ND.std(dim=0, correction=0).mean() * features_ND.shape[1] ** 0.5),
        "probe/effective_rank": float(entropy.exp()),
    }
    codes = {name: code for code, name in enumerate(sorted(set(videos)))}
    video_N = torch.tensor([codes[name] for name in videos])
    same_NN = video_N[:, None] == video_N[None, :]
    same_NN.fill_diagonal_(False)
    asked_N = same_NN.any(dim=1)
    if asked_N.any():
        direction_ND = torch.nn.functional.normalize(centred_ND, dim=1)
        near_NN = (direction_ND @ direction_ND.T).fill_diagonal_(-torch.inf)
        hit_N = same_NN.gather(1, near_NN.argmax(dim=1, keepdim=True))[:, 0]
        by_chance_N = same_NN.float().sum(dim=1) / (len(videos) - 1)
        found["probe/same_video(%)"] = 100 * float(hit_N[asked_N].float().mean())
        found["probe/same_video_by_chance(%)"] = 100 * float(by_chance_N[asked_N].mean())
    return found
