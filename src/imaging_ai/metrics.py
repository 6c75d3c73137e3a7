"""Counters and timings for Prometheus, shared by the roles. Labels are codes and names, never who a patient is."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

__all__ = ["ASSOCIATIONS", "DELIVERIES", "INSTANCES_RECEIVED", "JOBS", "JOB_SECONDS", "RECEIVED_BYTES"]

INSTANCES_RECEIVED = Counter("imaging_ai_instances_received", "Instances by outcome", ["door", "outcome"])
RECEIVED_BYTES = Counter("imaging_ai_received_bytes", "Bytes of instances stored", ["door"])
ASSOCIATIONS = Gauge("imaging_ai_associations", "Open DICOM associations", multiprocess_mode="livesum")
JOBS = Counter("imaging_ai_jobs", "Jobs that ended, by model and outcome", ["model", "outcome"])
JOB_SECONDS = Histogram(
    "imaging_ai_job_seconds", "Seconds from claim to end", ["model"], buckets=(1, 2, 5, 10, 20, 60, 120, 300, 900)
)
DELIVERIES = Counter(
    "imaging_ai_deliveries", "Delivery attempts by destination and outcome", ["destination", "outcome"]
)
