"""Where failures are told: a webhook whose address is a secret, kept in a block of Prefect's and nowhere else."""

from __future__ import annotations

import contextlib
from uuid import UUID

from prefect.blocks.webhook import Webhook
from pydantic import SecretStr

BLOCK = "marlin-failures"


def store_webhook(url: str | None) -> UUID | None:
    """Keep the address (None leaves what is there) and return the block's id, None where there is no block."""
    if url:
        return Webhook(url=SecretStr(url)).save(BLOCK, overwrite=True)  # type: ignore[return-value]
    try:
        return Webhook.load(BLOCK)._block_document_id  # type: ignore[union-attr]
    except ValueError:
        return None


def forget_webhook() -> None:
    """Delete the block; an absent one is no error."""
    with contextlib.suppress(ValueError):
        Webhook.delete(f"webhook/{BLOCK}")
