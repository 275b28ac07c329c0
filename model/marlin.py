"""``Marlin``: takes the place of the class of the same name in ``marlin-pytorch``.

Here alone a mask has their polarity, True = visible; everything inside this project has True = hidden.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypedDict

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from infra.config import validate_config
from infra.errors import ConfigError, WeightsError
from infra.fetch import fetch_file
from model.clip_stream import plan_video, window_pixels
from model.nets.config import ModelConfig
from model.nets.factory import build_encoder, build_mae
from model.weights import LoadedWeights, known_name, load_weights
