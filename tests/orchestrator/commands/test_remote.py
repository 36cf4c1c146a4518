"""`--host`, `fetch` over a real sshd on loopback. The login node's profile prints, its Slurm is scripts."""

import fcntl
import json
import os
import pty
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from kd.errors import InputError
from orchestrator.commands.fetch import fetch
from orchestrator.commands.status import status

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
        f"PasswordAuthentication no\nKbdInteractiveAuthentication no\nSetEnv SHELL={root}/profile/bash\n",
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
    script(root / "profile" / "bash", f'echo Welcome!\nexec {shutil.which("bash")} "$@"')
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
    assert (process.returncode, out) == (same.returncode, same.stdout)
    assert err == "Welcome!\n" + same.stderr
    assert "fitted" in out
    out, err = laptop.run("logs", "fitted", "nope", "--host", laptop.host, code=2)
    assert out == ""
    assert err.startswith("Welcome!\nerror: sweeps/fitted: no point 'nope'")


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


def pretend(laptop: Laptop, text: str) -> None:
    """A kdsweep there that only prints what it is given, one word a line, then does `text`."""
    version = '[ "$1" = --version ] && { echo "kdsweep, version 9.1.0"; exit; }'
    script(laptop.there / ".venv" / "bin" / "kdsweep", f"{version}\nprintf '%s\\n' \"$@\"\n{text}")


def test_words_arrive_as_they_were_given_and_other_versions_are_named(laptop: Laptop) -> None:
    pretend(laptop, 'echo "$COLUMNS $NO_COLOR $KDSWEEP_HOST"; exit 3')
    words = ["--lines", "7", "--failed", "--host", laptop.host, "--", '-it\'s; "$HOME"', "a*"]
    out, err = laptop.run("logs", *words, code=3, COLUMNS="61", NO_COLOR="1")
    assert out.splitlines() == ["logs", "--failed", "--lines=7", "--", *words[-2:], "61 1 "]
    assert err == "Welcome!\n"
    (laptop.here / "mine.yaml").write_text(SITE, encoding="utf-8")
    out, err = laptop.run("doctor", "--site=mine.yaml", "--no-node", "--host", laptop.host, code=3)
    assert out.splitlines()[:3] == ["doctor", "--site=sent/site/mine.yaml", "--no-node"]
    assert (laptop.there / "sent" / "site" / "mine.yaml").read_text(encoding="utf-8") == SITE
    assert "note: here is kdsweep 0.1.0, on login kdsweep, version 9.1.0" in err
    pretend(laptop, "kill -9 $$")
    laptop.run("ls", "--host", laptop.host, code=137)


def test_a_reader_that_leaves_ends_it_well(laptop: Laptop) -> None:
    pretend(laptop, 'trap "exit 0" PIPE; while echo more; do :; done')
    process = laptop.start("logs", "x", "--host", laptop.host)
    assert process.stdout
    assert process.stdout.readline() == "logs\n"
    process.stdout.close()
    assert process.wait(20) == 0
    assert process.stderr
    assert "reach" not in process.stderr.read()
    process.stderr.close()


def test_in_a_terminal_it_is_one_there_and_ctrl_c_goes_there(laptop: Laptop) -> None:
    pretend(laptop, 'test -t 1 && stty size; trap "exit 130" INT; echo ready; while :; do sleep 0.1; done')
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestrator.commands.main", "status", "x", "--watch", "--host", laptop.host],
        **{"cwd": laptop.here, "env": laptop.env, "stdin": side, "stdout": side, "stderr": side},
        start_new_session=True,
    )
    os.close(side)
    said = b""
    while b"ready" not in said:
        said += os.read(main, 1000)
    os.write(main, b"\x03")
    assert process.wait(20) == 130
    os.close(main)
    assert b"33 77" in said


@pytest.mark.parametrize(
    ("host", "more", "code", "told"),
    [
        ("nobody", {}, 75, "can't reach nobody: ssh: connect to host 127.0.0.1 port 1: Connection refused"),
        ("login:/no/where", {}, 2, "login has no directory /no/where: name another with --host HOST:DIR"),
        ("login:/", {"KDSWEEP_REMOTE": "/x/kd"}, 2, "no /x/kd on login: install it there"),
        ("login", {"PATH": "/no"}, 2, "--host needs ssh, and there is none here: install OpenSSH's client"),
        ("-oProxyCommand=x", {}, 2, "--host '-oProxyCommand=x': write [USER@]HOST[:DIR]"),
        ("ssh://login", {}, 2, "--host 'ssh://login': write [USER@]HOST[:DIR]"),
    ],
)
def test_what_is_in_the_way_is_one_line(
    laptop: Laptop,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    host: str,
    more: dict,
    code: int,
    told: str,
) -> None:
    for name, value in {"PATH": laptop.env["PATH"], **more}.items():
        monkeypatch.setenv(name, value)
    ran = CliRunner().invoke(status, ["wrist", f"--host={host}"])
    said = capfd.readouterr().err.removeprefix("Welcome!\n")
    if isinstance(ran.exception, InputError):  # main prints it
        said += f"error: {ran.exception}\n"
        assert getattr(ran.exception, "exit_code", 2) == code
    else:
        assert ran.exit_code == code
    assert said.startswith(f"error: {told}")
    assert said.count("\n") == 1


@pytest.fixture
def sweep(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep there; this process is on the laptop."""
    monkeypatch.chdir(laptop.here)
    monkeypatch.setenv("PATH", laptop.env["PATH"])
    there = laptop.there / "sweeps" / "tiny"
    names = ["space.yaml", "spaces/001.yaml", "plan.json", "ledger.jsonl", "slurm/1/token.json", "mlflow.db"]
    for id in ("aa1", "bb2"):
        names += [
            f"points/{id}/{n}" for n in ("result.json", "history.jsonl", "model.safetensors", ".x.json")
        ]
    names += ["points/bb2/error.json", "points/bb2/checkpoint.pt"]
    for name in names:
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        (there / name).write_text(f'{{"of": "{name}"}}\n' * 300, encoding="utf-8")
    return there


def fetching(laptop: Laptop, *words: str, code: int = 0) -> str:
    ran = CliRunner().invoke(fetch, ["tiny", "--host", laptop.host, *words])
    if isinstance(ran.exception, InputError):
        assert getattr(ran.exception, "exit_code", 2) == code
        return str(ran.exception)
    assert ran.exit_code == code, ran.output
    return ran.stdout


SMALL = 9  # files that answers need


def test_fetch_brings_what_answers_need_and_then_what_changed(laptop: Laptop, sweep: Path) -> None:
    here = laptop.here / "sweeps" / "tiny"
    assert fetching(laptop, "--dry-run").startswith(f"sweeps/tiny: {SMALL} of {SMALL} files to fetch")
    assert not here.exists()
    fetching(laptop)
    small = files_below(here)
    assert len(small) == SMALL
    assert small.items() <= files_below(sweep).items()
    assert fetching(laptop).startswith(f"sweeps/tiny: 0 of {SMALL} files fetched")

    (sweep / "points" / "bb2" / "error.json").unlink()  # by `kdsweep retry`
    (sweep / "plan.json").write_text("{}", encoding="utf-8")
    (sweep / "laws.json").write_text("old", encoding="utf-8")
    (here / "laws.json").write_text("new", encoding="utf-8")  # by `kdsweep fit` here
    fetching(laptop, "--point", "a")
    found = files_below(here)
    assert (found["plan.json"][0], found["laws.json"][0]) == (b"{}", b"new")
    assert found.keys() - small == {"laws.json", "points/aa1/model.safetensors"}
    assert small.keys() - found == {"points/bb2/error.json"}
    fetching(laptop, "--models")
    assert (here / "points/bb2/model.safetensors").exists()
    fetching(laptop, "--all")
    missing = files_below(sweep).keys() - files_below(here)
    assert missing == {"slurm/1/token.json", "mlflow.db", "points/aa1/.x.json", "points/bb2/.x.json"}


def test_fetch_refuses_to_mix_two_sweeps(laptop: Laptop, sweep: Path) -> None:
    mine = laptop.here / "sweeps" / "tiny" / "spaces" / "001.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("name: other\n", encoding="utf-8")
    assert "holds another sweep: choose another directory with -o" in fetching(laptop, code=2)
    assert list(files_below(laptop.here)) == ["sweeps/tiny/spaces/001.yaml"]
    fetching(laptop, "-o", "other")
    assert len(files_below(laptop.here / "other")) == SMALL


def test_fetch_goes_on_after_a_broken_connection(laptop: Laptop, sweep: Path, monkeypatch, tmp_path) -> None:
    true = shutil.which("ssh", path=laptop.env["PATH"])
    broken = f'{true} "$@" | dd bs=1 count=20000 2>/dev/null; echo "connection reset" >&2; exit 255'
    script(tmp_path / "broken" / "ssh", broken)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{tmp_path / 'broken'}:{laptop.env['PATH']}")
        told = fetching(laptop, code=75)
    assert told.startswith("can't reach login: connection reset\n")
    came = files_below(laptop.here / "sweeps" / "tiny")
    assert 0 < len(came) < SMALL
    assert came.items() <= files_below(sweep).items()
    assert f"{SMALL - len(came) + 1} of {SMALL} files fetched" in fetching(laptop)  # the first is compared


def test_fetch_of_no_sweep(laptop: Laptop, sweep: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(sweep)
    fetching(laptop, code=2)
    assert "error: no sweep at tiny or sweeps/tiny in" in capfd.readouterr().err
