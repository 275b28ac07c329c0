"""A dataset version in, weights, features and scores out. ``from model import Marlin`` is the library's door."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.marlin import Marlin, register_model_from_yaml

__all__ = ["Marlin", "register_model_from_yaml"]


def __getattr__(name: str) -> Any:
    """Import what is asked for only then: importing a config must not load torch."""
    if name in __all__:
        from model import marlin

        return getattr(marlin, name)
    raise AttributeError(f"module 'model' has no attribute '{name}'")
