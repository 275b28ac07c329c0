"""The device that a face network runs on."""

from __future__ import annotations

import torch

from infra.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """Return the device of a config's ``device`` setting: ``auto`` takes a GPU where there is one.

    Raises:
        ConfigError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"faces.device is {name!r}, which is not available here; use 'auto' or 'cpu'") from error
    return device
