"""`--host` and `fetch`, over a real sshd on loopback; the login node is this machine, its Slurm shell scripts."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
ME = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
SPACE = """
data: {options: {subjects: 9, minutes: 2}}
students:
  - {arch: mlp, depth: 1, width: [4]}
training: {max_epochs: 1, batch_size: 64}
"""
SITE = "cpus_per_node: 2\nmemory: 4G\n"
SLURM = {
    "sbatch": 'echo "$@" >> "$0.log"; case "$*" in *--test-only*);; *) echo 41;; esac',
    "squeue": "exit 0",
    "sacct": "exit 0",
    "scontrol": 'case "$*" in *version*) echo slurm 22.05.8;; *) echo "PartitionName=batch State=UP";; esac',
    "scancel": "exit 0",
}


class Laptop:
    """A folder from which commands are given, and `there`, the directory on the login node."""

    def __init__(self, root: Path, ssh: Path, there: Path) -> None:
        self.here, self.there = root / "laptop", there
        self.here.mkdir()
        self.host = f"login:{there}"
        self.env = {"PATH": f"{ssh}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "HOME": str(root)}

    def start(self, *words: str, **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "orchestrator.commands.main", *words],
            cwd=self.here,
            env=self.env | more,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str, code: int = 0, **more: str) -> tuple[str, str]:
        """What a command prints on stdout and stderr; code: its exit code."""
        with self.start(*words, **more) as process:
            out, err = process.communicate(timeout=60)
        assert process.returncode == code, out + err
        return out, err


@pytest.fixture(scope="module")
def ssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with an `ssh` that knows the host `login`, which is sshd on loopback."""
    if SSHD is None:
        text = "needs sshd (Debian's openssh-server); .ci/run installs it"
        if os.environ.get("CI"):
            pytest.fail(text)
        pytest.skip(text)
    root = tmp_path_factory.mktemp("sshd")
    if os.geteuid() == 0:  # sshd changes into it to drop its rights
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    for key in ("host", "mine"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(root / key)], check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (root / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {root}/host\nPidFile none\nUsePAM no\n"
        f"StrictModes no\nAuthorizedKeysFile {root}/mine.pub\nPermitRootLogin yes\nPermitUserRC no\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\n",
        encoding="utf-8",
    )
    public = (root / "host.pub").read_text(encoding="utf-8")
    (root / "known").write_text(f"[127.0.0.1]:{port} {public}", encoding="utf-8")
    (root / "ssh_config").write_text(
        f"Host login\n  HostName 127.0.0.1\n  Port {port}\n  User {ME}\n  IdentityFile {root}/mine\n"
        f"Host nobody\n  HostName 127.0.0.1\n  Port 1\n"
        f"Host *\n  IdentitiesOnly yes\n  UserKnownHostsFile {root}/known\n  BatchMode yes\n",
        encoding="utf-8",
    )
    (root / "bin").mkdir()
    script(root / "bin" / "ssh", f'exec {shutil.which("ssh")} -F {root}/ssh_config "$@"')
    with (root / "log").open("wb") as log:
        sshd = subprocess.Popen([SSHD, "-D", "-e", "-f", str(root / "sshd_config")], stderr=log)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        else:
            pytest.fail((root / "log").read_text(encoding="utf-8"))
        yield root / "bin"
    finally:
        sshd.terminate()
        sshd.wait()


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)


@pytest.fixture
def laptop(ssh: Path, tmp_path: Path) -> Laptop:
    """The login node has kdsweep where a checkout has it, and a directory whose name needs quotes."""
    there = tmp_path / "it's there"
    for name, text in SLURM.items():
        script(there / "slurm" / name, text)
    paths = f'export PYTHONPATH={ROOT} PATH="$PWD/slurm:$PATH" OMP_NUM_THREADS=1'
    script(
        there / ".venv" / "bin" / "kdsweep",
        f'{paths}\nexec {sys.executable} -m orchestrator.commands.main "$@"',
    )
    return Laptop(tmp_path, ssh, there)


def files_below(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Contents and times of files, by name."""
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_submit_sends_the_space_and_the_profile_and_submits_there(laptop: Laptop) -> None:
    (laptop.here / "spaces").mkdir()
    (laptop.here / "spaces" / "small.yaml").write_text(SPACE, encoding="utf-8")
    (laptop.here / "mine.yaml").write_text(SITE, encoding="utf-8")
    words = ["submit", "spaces/small.yaml", "training.lr=0.01", "--site", "mine.yaml", "--time=30", "--gang"]
    out, err = laptop.run(*words, "--host", laptop.host)
    assert out == "41\n"
    assert "add --host" in err
    assert (laptop.there / "sent" / "space" / "small.yaml").read_text(encoding="utf-8") == SPACE
    sweep = laptop.there / "sweeps" / "small"
    assert "lr: 0.01" in (sweep / "space.yaml").read_text(encoding="utf-8")
    script_ = next(sweep.glob("slurm/*/gang.sbatch")).read_text(encoding="utf-8")
    assert "--time=30" in script_
    assert sorted(p.name for p in laptop.here.iterdir()) == ["mine.yaml", "spaces"]
    assert not list(laptop.there.glob("sent/*/.*"))


def test_status_prints_and_ends_as_it_does_there(laptop: Laptop, fitted_sweep: Path) -> None:
    shutil.copytree(fitted_sweep, laptop.there / "sweeps" / "fitted")
    kdsweep = [sys.executable, "-m", "orchestrator.commands.main"]
    env = laptop.env | {"COLUMNS": "70"}
    same = subprocess.run(
        [*kdsweep, "status", "fitted", "--all"], cwd=laptop.there, env=env, capture_output=True, text=True
    )
    assert same.returncode
    with laptop.start("status", "fitted", "--all", KDSWEEP_HOST=laptop.host, COLUMNS="70") as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (same.returncode, same.stdout, same.stderr)
    assert "fitted" in out
    out, err = laptop.run("logs", "fitted", "nope", "--host", laptop.host, code=2)
    assert (out, err.startswith("error: sweeps/fitted: no point 'nope'")) == ("", True)


def test_an_end_here_ends_the_command_there(laptop: Laptop) -> None:
    sweep = laptop.there / "sweeps" / "busy"
    (sweep / "points").mkdir(parents=True)
    beat = {"state": "RUNNING", "time": time.time() + 1000, "host": "other", "pid": 1}
    (sweep / "progress.json").write_text(json.dumps(beat), encoding="utf-8")
    process = laptop.start("logs", "busy", "--follow", "--host", laptop.host)
    there = b"logs\0--follow\0--\0busy\0"
    wait_for(lambda: running(there))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "error: interrupted"
    wait_for(lambda: not running(there))


def running(words: bytes) -> list[Path]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [path] if path.read_bytes().endswith(words) else []
        except OSError:
            continue
    return found


def wait_for(what) -> None:
    end = time.monotonic() + 20
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_fetch_brings_what_answers_need_and_then_what_changed(laptop: Laptop, tiny_sweep: Path) -> None:
    there, here = laptop.there / "sweeps" / "tiny", laptop.here / "sweeps" / "tiny"
    shutil.copytree(tiny_sweep, there)
    (there / "spaces").mkdir()
    shutil.copy(there / "space.yaml", there / "spaces" / "001.yaml")
    (there / "slurm").mkdir()
    (there / "slurm" / "secret.json").write_text("{}", encoding="utf-8")
    point = sorted(p.name for p in (there / "points").iterdir())[0]
    (there / "points" / point / "error.json").write_text("{}", encoding="utf-8")
    every = files_below(there)
    small = {n: f for n, f in every.items() if n.endswith((".json", ".jsonl", ".yaml")) and "slurm" not in n}
    fetch = ["fetch", "tiny", "--host", laptop.host]
    assert f"{len(small)} of {len(small)} files to fetch" in laptop.run(*fetch, "--dry-run")[0]
    assert not here.exists()
    laptop.run(*fetch)
    assert files_below(here) == small
    assert "0 of" in laptop.run(*fetch)[0]

    (there / "points" / point / "error.json").unlink()
    (there / "plan.json").write_text("{}", encoding="utf-8")
    (here / "laws.json").write_text("{}", encoding="utf-8")  # by `kdsweep fit` here
    laptop.run(*fetch, "--point", point)
    found = files_below(here)
    assert found["plan.json"][0] == found.pop("laws.json")[0] == b"{}"
    assert f"points/{point}/error.json" not in found
    assert [n for n in found if n.endswith(".safetensors")] == [f"points/{point}/model.safetensors"]

    (here / "spaces" / "001.yaml").write_text("name: other\n", encoding="utf-8")
    (there / "plan.json").write_text("{ }", encoding="utf-8")
    assert "holds another sweep: choose another directory" in laptop.run(*fetch, code=2)[1]
    assert (here / "plan.json").read_bytes() == b"{}"
