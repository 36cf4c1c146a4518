"""What Ray's dashboard shows of a sweep beyond Tune's actors: its progress, its log, and gauges.

Without Prometheus the dashboard draws no metrics of ours, but its Jobs page shows a status message, metadata
and a log file per submitted job. The sweep is entered there as one, and kept up to date. Gauges are exported
where metrics are asked for (`ray_kdsweep_points`, `ray_kdsweep_eta_seconds`, ...; see `ray_cluster`).
Training needs none of this: what can't be shown is said once, and left out.
"""

import re
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.run import ray_internals

JOB_ID_KEY, JOB_NAME_KEY = "job_submission_id", "job_name"  # what Ray joins a driver to its job entry by


def job_metadata(name: str) -> dict[str, str]:
    """Metadata for ray.init, by which Ray knows that this driver is the job `publish` describes."""
    id = re.sub(r"[^A-Za-z0-9._-]", "-", name)[:80]  # becomes part of a file's name
    if id != name:
        id += f"-{zlib.crc32(name.encode()):08x}"
    return {JOB_ID_KEY: f"kdsweep-{id}", JOB_NAME_KEY: f"kdsweep {name}"}


class Dashboard:
    """Publishes one sweep on the dashboard of the Ray this process is connected to.

    say: is told, once, of the first thing that failed.
    """

    def __init__(self, name: str, command: str, say: Callable[[str], None]) -> None:
        self.id = job_metadata(name)[JOB_ID_KEY]
        self.logs: Path | None = None  # Ray's, on this machine
        self._command, self._say, self._failed = command, say, False
        self._started_ms = int(1000 * time.time())
        self._node: dict[str, str] = {}
        self._gauges: dict[str, Any] = {}
        self._tags = {"sweep": name.encode("ascii", "backslashreplace").decode()}  # Ray takes no other
        for part in (self._find_logs, self._find_node, self._make_gauges):
            self._try(part)

    def write(self, line: str) -> None:
        """Add a line to the log the Jobs page shows."""
        self._try(lambda: self._write(line))

    def publish(self, message: str, figures: Mapping[str, Any], status: str = "RUNNING") -> None:
        """Show the sweep's status; status: RUNNING, SUCCEEDED, FAILED or STOPPED."""
        self._try(lambda: self._put(message, figures, status))
        self._try(lambda: self._set(figures))

    def _try(self, part: Callable[[], None]) -> None:
        import ray

        try:
            if not ray.is_initialized():
                raise RuntimeError("Ray has ended")  # most of its calls would start another one
            part()
        except Exception as error:  # whatever another Ray may do
            if not self._failed:
                self._failed = True
                self._say(
                    "Ray's dashboard doesn't show all of this sweep; training goes on "
                    f"({type(error).__name__}: {error})"
                )

    def _find_logs(self) -> None:
        self.logs = ray_internals.log_directory()
        ray_internals.redirect_reports(self._from_ray)  # stdout is for data

    def _find_node(self) -> None:
        import ray

        id = ray.get_runtime_context().get_node_id()
        node = next(node for node in ray.nodes() if node["NodeID"] == id)
        agent = f"http://{node['NodeManagerAddress']}:{node['DashboardAgentListenPort']}"
        self._node = {"driver_node_id": id, "driver_agent_http_address": agent}

    def _make_gauges(self) -> None:
        from ray.util.metrics import Gauge

        self._gauges = {
            "points": Gauge("kdsweep_points", "Points of the sweep by state", ("sweep", "state")),
            "eta": Gauge("kdsweep_eta_seconds", "Estimated seconds to the end of the sweep", ("sweep",)),
            "slots": Gauge("kdsweep_slots", "Packs that can run at once", ("sweep",)),
        }

    def _from_ray(self, data: Mapping[str, Any], ignore_prefix: bool) -> None:
        for text in data["lines"]:
            self.write(f"Ray: {text}")

    def _write(self, line: str) -> None:
        if self.logs is None:
            return
        with (self.logs / f"job-driver-{self.id}.log").open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%H:%M:%S')} {line}\n")

    def _put(self, message: str, figures: Mapping[str, Any], status: str) -> None:
        running = ", ".join(f"{w['point']} {w['epoch']}/{w['max_epochs']}" for w in figures["running"])
        counts = {key: str(figures[key]) for key in ("done", "failed", "blocked", "total", "slots")}
        ray_internals.put_job(
            self.id,
            status=status,
            entrypoint=self._command,
            message=message,
            start_time=self._started_ms,
            end_time=None if status == "RUNNING" else int(1000 * time.time()),
            metadata={**counts, "running": running},
            **self._node,
        )

    def _set(self, figures: Mapping[str, Any]) -> None:
        if not self._gauges:
            return
        for state in ("done", "failed", "blocked"):
            self._gauges["points"].set(figures[state], {**self._tags, "state": state})
        self._gauges["points"].set(len(figures["running"]), {**self._tags, "state": "running"})
        self._gauges["slots"].set(figures["slots"], self._tags)
        if figures["eta_s"] is not None:
            self._gauges["eta"].set(figures["eta_s"], self._tags)
