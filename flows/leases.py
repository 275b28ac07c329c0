"""Where a Prefect server keeps who holds a place in a limit: in files, so that the holders outlive a restart.

``PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE=flows.leases`` names this module to the server. Prefect's default is the
server's memory: after a restart no holder can renew or give back its place, runs of deployments are cancelled for it,
and the place stays taken for ever.
"""

from __future__ import annotations

import json
from collections import Counter
from datetime import timedelta
from pathlib import Path
from uuid import UUID

from prefect.server.concurrency.lease_storage import ConcurrencyLimitLeaseMetadata, filesystem
from prefect.server.utilities.leasing import ResourceLease

RUN_TTL = timedelta(hours=1)
"""Least lifetime of a deployment run's place. Prefect asks for 5 minutes and cancels the run where they are over, so
that a server which is away for longer ends it; and the place of a run that ended is given back at once, whatever this
is."""


class ConcurrencyLeaseStorage(filesystem.ConcurrencyLeaseStorage):
    """Prefect's files below PREFECT_HOME, where the places of deployment runs last ``RUN_TTL`` at least."""

    async def create_lease(
        self,
        resource_ids: list[UUID],
        ttl: timedelta,
        metadata: ConcurrencyLimitLeaseMetadata | None = None,
    ) -> ResourceLease[ConcurrencyLimitLeaseMetadata]:
        """See Prefect."""
        return await super().create_lease(resource_ids, _least(ttl, metadata), metadata)

    async def renew_lease(self, lease_id: UUID, ttl: timedelta) -> bool:
        """See Prefect."""
        lease = await self.read_lease(lease_id)
        return await super().renew_lease(lease_id, _least(ttl, lease.metadata if lease else None))


def _least(ttl: timedelta, metadata: ConcurrencyLimitLeaseMetadata | None) -> timedelta:
    is_task = metadata is not None and metadata.holder is not None and metadata.holder.type == "task_run"
    return ttl if is_task else max(ttl, RUN_TTL)  # a deployment run's has no holder, or the run


def held(home: Path) -> Counter[UUID] | None:
    """Return how many places of each limit are held, by the files below a server's PREFECT_HOME; None without files.

    A lease that is over counts until the server has taken it back, as it then still takes its places back.
    """
    folder = home / "concurrency_leases"
    if not folder.is_dir():
        return None
    places: Counter[UUID] = Counter()
    for path in folder.glob("*-*.json"):  # named by their ids
        try:
            lease = json.loads(path.read_text())
        except FileNotFoundError:
            continue  # given back meanwhile
        places.update({UUID(limit): lease["metadata"]["slots"] for limit in lease["resource_ids"]})
    return places
