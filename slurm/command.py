"""The one place where Slurm's commands are run: argument lists, never a shell; a time limit; patience."""

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from slurm import states
from slurm.errors import Away, Refused
from slurm.states import JobState

# What Slurm's commands print when the controller is busy or away; anything else is a refusal.
TRANSIENT = (
    "unable to contact slurm controller",
    "socket timed out",
    "connection refused",
    "connection timed out",
    "zero bytes were transmitted",
    "transport endpoint",
    "resource temporarily unavailable",
    "slurm_persist_conn",
    "communications connection failure",
    "server too busy",
    "backup controller",
    "protocol authentication error",  # munge restarting
    "unexpected message received",  # scontrol, of a controller that is away
)


def on_cluster(command: Sequence[str], cluster: str | None) -> list[str]:
    """A command of Slurm's for the login node, sent to another cluster than the login node's own.

    >>> on_cluster(["squeue", "--noheader"], "blue")
    ['squeue', '--clusters=blue', '--noheader']
    """
    return [command[0], *([f"--clusters={cluster}"] if cluster else []), *command[1:]]


class Slurm:
    """Slurm's commands for one user. patience_s: how long a controller that doesn't answer is asked again.

    cluster: the profile's `clusters`, the one that all commands go to; None: the login node's own.
    """

    def __init__(
        self,
        patience_s: float = 60.0,
        env: Mapping[str, str] | None = None,
        limit_s: float = 30.0,
        cluster: str | None = None,
    ) -> None:
        self.patience_s, self.limit_s, self.cluster = patience_s, limit_s, cluster
        self.env = dict(os.environ if env is None else env)
        for name in [n for n in self.env if n.startswith(("SBATCH_", "SLURM_")) and n != "SLURM_CONF"]:
            del self.env[name]  # options from nowhere; submitting from inside a job
        self.env["SLURM_BITSTR_LEN"] = "0"  # task ids of an array are listed whole

    def run(self, *command: str, cwd: Path | None = None, retry: bool = True) -> str:
        """A command's stdout. Raises Away or Refused."""
        return self._patiently(lambda: self._once(command, cwd)) if retry else self._once(command, cwd)

    def _patiently(self, ask: Callable[[], str]) -> str:
        deadline, pause = time.monotonic() + self.patience_s, 1.0
        while True:
            try:
                return ask()
            except Away:
                if time.monotonic() + pause > deadline:
                    raise
                time.sleep(pause)
                pause = min(2 * pause, 30.0)

    def _once(self, command: Sequence[str], cwd: Path | None) -> str:
        try:
            done = subprocess.run(
                on_cluster(command, self.cluster),
                cwd=cwd,
                env=self.env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",  # squeue cuts names where a column ends, within a character, too
                timeout=self.limit_s,
                check=False,
            )
        except FileNotFoundError:
            raise Refused(
                f"{command[0]}: no such command: is this a login node of a Slurm cluster?"
            ) from None
        except subprocess.TimeoutExpired:
            raise Away(f"{command[0]} got no answer from Slurm within {self.limit_s:.0f} s") from None
        if done.returncode == 0:
            return done.stdout
        said = (done.stderr or done.stdout).strip()
        if self.cluster and "--cluster" in said:
            said += f" (`clusters: {self.cluster}` in the site profile; it needs slurmdbd)"
        if any(text in said.lower() for text in TRANSIENT):
            raise Away(f"{command[0]}: {said.splitlines()[-1]}")
        raise Refused(f"{command[0]}: {said or f'exit code {done.returncode}'}")

    def sbatch(self, args: Sequence[str], *, comment: str, cwd: Path) -> str:
        """Submit and return the job's id, once: after an attempt without answer the queue is asked first.

        comment: unique to this submission. Raises Away when nobody can tell whether it was submitted.
        """

        tried = False

        def ask() -> str:
            nonlocal tried
            if tried and (found := self.submitted(comment)):
                return found
            tried = True
            return states.parse_sbatch(
                self._once(["sbatch", "--parsable", f"--comment={comment}", *args], cwd)
            )

        return self._patiently(ask)

    def submitted(self, comment: str) -> str | None:
        """Id of this user's job with this comment, if the queue has one."""
        rows = states.of(self.queue(retry=False), comment=comment)
        return rows[0].base if rows else None

    def queue(self, user: str | None = None, retry: bool = True) -> list[JobState]:
        """A user's jobs, with those that ended lately; default: one's own. Raises Away, Refused."""
        return states.parse_squeue(self.run(*states.SQUEUE, f"--user={user or os.getuid()}", retry=retry))

    def accounted(self, ids: Sequence[str]) -> list[JobState]:
        """What accounting remembers of jobs; nothing where there is none."""
        if not ids:
            return []
        columns = "JobID,State,NodeList,Comment,JobName"
        try:
            return states.parse_sacct(
                self.run(
                    "sacct",
                    "--parsable2",
                    "--noheader",
                    "-X",
                    "-o",
                    columns,
                    "-j",
                    ",".join(ids),
                    retry=False,
                )
            )
        except (Away, Refused):  # "Slurm accounting storage is disabled"
            return []

    def max_array(self) -> int:
        """MaxArraySize: one more than an array's largest index."""
        return int(states.parse_config(self.run("scontrol", "show", "config"), "MaxArraySize") or 1001)
