"""Events that wake deployments. A lost one costs time until the next cron schedule, and nothing else."""

from __future__ import annotations

import logging
from typing import Any

import httpx
from prefect.client.orchestration import get_client
from prefect.events import Event

from infra.storage import open_storage

logger = logging.getLogger(__name__)

VIDEO_ARRIVED = "marlin.video.arrived"
DATASET_VERSION = "marlin.dataset.version"
ENCODER_PROMOTED = "marlin.encoder.promoted"


def dataset_resource(uri: str) -> str:
    """Return the id under which events speak of a dataset."""
    return f"marlin.dataset.{open_storage(uri).uri}"


def registry_resource(uri: str) -> str:
    """Return the id under which events speak of a registry."""
    return f"marlin.registry.{open_storage(uri).uri}"


def post_event(name: str, resource: str, payload: dict[str, Any]) -> bool:
    """Post an event to the server that Prefect is set to; return False, with a warning, where it does not take it.

    Not ``emit_event``, which hands the event to a thread that may lose it and says nothing.
    """
    event = Event(event=name, resource={"prefect.resource.id": resource}, payload=payload)
    try:
        with get_client(sync_client=True) as client:
            client._client.post("/events", json=[event.model_dump(mode="json")]).raise_for_status()
    except httpx.HTTPError as error:
        logger.warning("event %s was not taken (%s); the schedule will do what it would have started", name, error)
        return False
    return True
