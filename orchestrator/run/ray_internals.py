"""Every part of Ray that is not its public interface, in this one place: another Ray may lack any of it.

Training needs none of it, save `reread_environment`. Whoever calls the others goes on without them.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# What is used; a test looks each of them up in the Ray that is installed.
NAMES = (
    "ray._raylet:Config.initialize",
    "ray._raylet:AuthenticationTokenLoader.instance",
    "ray._private.worker:global_worker",
    "ray._private.worker:print_to_stdstream",
    "ray._private.node:Node.get_session_dir_path",
    "ray._private.state:actors",
    "ray.dashboard.modules.job.common:JobInfo.to_json",
    "ray.dashboard.modules.job.common:JobStatus",
    "ray.experimental.internal_kv:_internal_kv_put",
)


def reread_environment() -> None:
    """Have Ray's core read RAY_* again: it did when ray was imported, which a notebook may have done before.

    Without this a Ray imported before RAY_AUTH_MODE was set starts a cluster that it can't talk to itself.
    Ray's own ray.init does the same. One without it is left alone.
    """
    from ray import _raylet

    core: Any = _raylet
    if hasattr(core, "Config") and hasattr(core, "AuthenticationTokenLoader"):
        core.Config.initialize("")
        core.AuthenticationTokenLoader.instance().reset_cache()


def log_directory() -> Path:
    """Where the Ray of this process writes its logs."""
    from ray._private import worker

    node: Any = worker.global_worker.node
    return Path(node.get_session_dir_path()) / "logs"


def redirect_reports(to: Callable[[Mapping[str, Any], bool], None]) -> None:
    """Send elsewhere what Ray reports, at length and on stdout, of dead workers and nodes."""
    from ray._private import worker

    private: Any = worker
    if not hasattr(private, "print_to_stdstream"):
        raise AttributeError("ray._private.worker has no print_to_stdstream")
    private.print_to_stdstream = to


def put_job(id: str, *, status: str, **info: Any) -> None:
    """Enter a job on the dashboard's Jobs page, or bring it up to date; info: fields of Ray's JobInfo."""
    from ray.dashboard.modules.job.common import JobInfo, JobStatus
    from ray.experimental.internal_kv import _internal_kv_put

    entry = json.dumps(JobInfo(status=JobStatus(status), **info).to_json())
    _internal_kv_put(
        f"_ray_internal_job_info_{id}".encode(), entry.encode(), overwrite=True, namespace=b"job"
    )


def node_of_actor(id: str) -> str | None:
    """The node that an actor is, was or was to be on; None if Ray doesn't know it."""
    from ray._private import state

    return ((state.actors(id) or {}).get("Address") or {}).get("NodeID") or None


def forget(trial: Any, like: Any) -> None:
    """Tune keeps every trial to the end: drop what is no longer read, share with `like` what is alike."""
    trial.run_metadata.metric_analysis.clear()
    trial.run_metadata.metric_n_steps.clear()
    trial.run_metadata.last_result = {}
    trial.run_metadata.checkpoint_manager = like.run_metadata.checkpoint_manager
    trial.config.clear()
    trial.evaluated_params.clear()
    for name in ("storage", "temporary_state", "placement_group_factory", "_default_placement_group_factory"):
        setattr(trial, name, getattr(like, name))
