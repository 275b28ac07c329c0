"""A dataset version in, weights, features and scores out. ``from model import Marlin`` is the library's door."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.marlin import Marlin

__all__ = ["Marlin"]


def __getattr__(name: str) -> Any:
    """Import ``Marlin`` when it is first asked for: importing a config must not load torch."""
    if name == "Marlin":
        from model.marlin import Marlin

        return Marlin
    raise AttributeError(f"module 'model' has no attribute '{name}'")
