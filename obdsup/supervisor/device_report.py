"""What `device show`, `device list` and `status` say, as JSON values."""

from __future__ import annotations

from dataclasses import asdict

from obdsup.supervisor.device import Device

__all__ = ["device_report"]


def device_report(device: Device) -> dict[str, object]:
    """One device. Counters come from its journal, read without asking the worker."""
    row, serving = device.record.row, device.serving
    worker = serving.worker
    counters = serving.journal.counters()
    return {
        "name": row.name,
        "uuid": row.uuid,
        "phase": device.phase,
        "provider": row.provider,
        "block_device": row.block_device,
        "image": row.image,
        "writable": row.is_writable,
        "upper": {"data": row.upper_data, "index": row.upper_index} if row.is_writable else None,
        "size_bytes": row.size_bytes,
        "generation": row.generation,
        "worker": (
            {"id": worker.id, "pid": worker.identity.pid, "release": worker.release}
            if worker is not None
            else None
        ),
        "journal": str(serving.journal.path),
        "in_flight": counters.in_flight,
        "commands": counters.completed,
        "recovered": counters.recovered,
        "already_done": counters.already_done,
        "medium_errors": counters.medium_errors,
        "poisoned": list(serving.poisoned),
        "resets": counters.resets,
        "takeovers": row.takeovers,
        "last_takeover": asdict(row.last_takeover) if row.last_takeover else None,
        "quarantine": row.quarantine,
        "release": row.release,
        "devices_per_worker": row.options.devices_per_worker,
        "memory_max_bytes": row.options.memory_max_bytes,
        "reason": serving.reason or row.reason,
        "created": row.created,
    }
