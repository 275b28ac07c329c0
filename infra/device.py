"""The device that a setting names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from infra.errors import ConfigError

if TYPE_CHECKING:
    import torch


def pick_device(name: str, setting: str = "device") -> torch.device:
    """Return the torch device for ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:N``.

    Args:
        name: value of the setting.
        setting: its name, for the error.

    Raises:
        ConfigError: no device name, or no such device here.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"{setting} '{name}' is not a device name; use auto, cpu or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"{setting} '{name}' is not here: torch finds {torch.cuda.device_count()} GPUs; use auto or cpu"
        )
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"{setting} '{name}' is not supported; use auto, cpu or cuda:N")
    return device
