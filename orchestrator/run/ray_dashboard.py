"""What Ray's dashboard shows of a sweep beyond Tune's actors: its progress, its log, and gauges.

Without Prometheus the dashboard draws no metrics of ours, but its Jobs page shows a status message, metadata
and a log file per submitted job. The sweep is entered there as one, and kept up to date. Gauges are exported
for whoever scrapes them (`ray_kdsweep_points`, `ray_kdsweep_eta_seconds`, ...).
"""

import json
import re
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

JOB_ID_KEY, JOB_NAME_KEY = "job_submission_id", "job_name"  # what Ray joins a driver to its job entry by


def job_metadata(name: str) -> dict[str, str]:
    """Metadata for ray.init, by which Ray knows that this driver is the job `publish` describes."""
    id = re.sub(r"[^A-Za-z0-9._-]", "-", name)[:80]  # becomes part of a file's name
    if id != name:
        id += f"-{zlib.crc32(name.encode()):08x}"
    return {JOB_ID_KEY: f"kdsweep-{id}", JOB_NAME_KEY: f"kdsweep {name}"}


class Dashboard:
    """Publishes one sweep on the dashboard of the Ray this process is connected to."""

    def __init__(self, name: str, command: str) -> None:
        import ray
        from ray.util.metrics import Gauge

        self.id = job_metadata(name)[JOB_ID_KEY]
        self._command = command
        self._started_ms = int(1000 * time.time())
        context = ray.get_runtime_context()
        self._node_id = context.get_node_id()
        self._agent = next(
            f"http://{node['NodeManagerAddress']}:{node['DashboardAgentListenPort']}"
            for node in ray.nodes()
            if node["NodeID"] == self._node_id
        )
        node: Any = ray._private.worker.global_worker.node
        self.logs = Path(node.get_session_dir_path()) / "logs"
        self._log = self.logs / f"job-driver-{self.id}.log"
        # Ray reports dead workers and nodes, at length, on stdout, which is for data: redirect it to the log.
        ray._private.worker.print_to_stdstream = self._from_ray
        self._points = Gauge("kdsweep_points", "Points of the sweep by state", ("sweep", "state"))
        self._eta = Gauge("kdsweep_eta_seconds", "Estimated seconds to the end of the sweep", ("sweep",))
        self._slots = Gauge("kdsweep_slots", "Packs that can run at once", ("sweep",))
        self._tags = {"sweep": name.encode("ascii", "backslashreplace").decode()}  # Ray takes no other

    def write(self, line: str) -> None:
        """Add a line to the log the Jobs page shows."""
        with self._log.open("a") as file:
            file.write(f"{time.strftime('%H:%M:%S')} {line}\n")

    def _from_ray(self, data: Mapping[str, Any], ignore_prefix: bool) -> None:
        for text in data["lines"]:
            self.write(f"Ray: {text}")

    def publish(self, message: str, figures: Mapping[str, Any], status: str = "RUNNING") -> None:
        """Show the sweep's status; status: RUNNING, SUCCEEDED, FAILED or STOPPED."""
        from ray.dashboard.modules.job.common import JobInfo, JobStatus
        from ray.experimental.internal_kv import _internal_kv_put

        info = JobInfo(
            status=JobStatus(status),
            entrypoint=self._command,
            message=message,
            start_time=self._started_ms,
            end_time=None if status == "RUNNING" else int(1000 * time.time()),
            metadata={
                **{key: str(figures[key]) for key in ("done", "failed", "blocked", "total", "slots")},
                "running": ", ".join(
                    f"{w['point']} {w['epoch']}/{w['max_epochs']}" for w in figures["running"]
                ),
            },
            driver_node_id=self._node_id,
            driver_agent_http_address=self._agent,
        )
        _internal_kv_put(
            f"_ray_internal_job_info_{self.id}".encode(),
            json.dumps(info.to_json()).encode(),
            overwrite=True,
            namespace=b"job",
        )
        for state in ("done", "failed", "blocked"):
            self._points.set(figures[state], {**self._tags, "state": state})
        self._points.set(len(figures["running"]), {**self._tags, "state": "running"})
        self._slots.set(figures["slots"], self._tags)
        if figures["eta_s"] is not None:
            self._eta.set(figures["eta_s"], self._tags)
