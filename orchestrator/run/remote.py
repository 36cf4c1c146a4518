"""Runs a command of kdsweep on a login node, over the user's own ssh. Knows OpenSSH and sh, no sweep.

One connection a command. What runs there is one quoted string, which the user's login shell reads, so that
PATH is as they know it; what their profile prints goes to stderr.
"""

import base64
import contextlib
import gzip
import os
import re
import select
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from kd.errors import InputError, Unavailable

SENT = "sent"  # folder for the files that come along, below the directory there
MOST_SENT = 90_000  # characters of all files, packed; Linux takes 131,072 in one word of a command
NO_CONNECTION = 255  # ssh's own exit code
HOLD_S = 0.2  # the last line on stderr waits so long for ssh to end, whose last word it then is
PASSED = ("NO_COLOR", "FORCE_COLOR")
# Profiles may print: they get stderr, and the command the true stdout. csh and fish know no -lc "$0".
LOGIN = (
    "case $SHELL in */bash|*/zsh|*/ksh|*/dash|*/sh);; *) SHELL=/bin/sh;; esac; "
    'exec "$SHELL" -lc "$0" 3>&1 >&2'
)
# Without a terminal nothing there hears Ctrl-C: when the connection ends, so does the command.
TIED = "exec 4<&0; { cat <&4; kill -INT 0; } >/dev/null 2>&1 3>&- & exec </dev/null 4<&-"


@dataclass(frozen=True)
class Host:
    """Where commands run: `login` as ssh takes it, and the directory there, which begins at the home."""

    login: str
    folder: str = "kdsweep"

    @classmethod
    def parse(cls, text: str) -> "Host":
        """[USER@]HOST[:DIR]. Raises InputError.

        >>> Host.parse("me@login:/scratch/me/kd")
        Host(login='me@login', folder='/scratch/me/kd')
        """
        login, _, folder = text.partition(":")
        if not re.fullmatch(r"[\w.+%@][\w.+%@-]*", login) or folder.startswith("//"):
            raise InputError(
                f"--host {text!r}: write [USER@]HOST[:DIR], with a host that ssh knows; "
                "ports and other names belong into ~/.ssh/config"
            )
        return cls(login, folder.rstrip() or cls.folder)


def run(host: Host, words: Sequence[str], files: Mapping[str, bytes], *, compare: bool) -> int:
    """`kdsweep WORDS` there, as if it ran here; its exit code.

    files: by their paths below the directory there. compare: say it if the versions here and there differ.
    Raises InputError without ssh, Unavailable without a connection.
    """
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    lines = [*enter(host, files), *_program(host), *(_compared(host) if compare else [])]
    lines += ["unset KDSWEEP_HOST", *_environment(terminal), *([] if terminal else [TIED])]
    # The shell stays, and makes a code of an end by a signal: ssh would make NO_CONNECTION of it.
    lines += ["trap : INT", f'"$kd" {shlex.join(words)} >&3 3>&-', "exit $?"]
    with connected(host, lines, terminal=terminal, stdin=None if terminal else subprocess.PIPE) as ssh:
        return ssh.wait()


@contextlib.contextmanager
def connected(
    host: Host, lines: Sequence[str], *, terminal: bool = False, **pipes: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """ssh, running lines of sh there, whose fd 3 is its stdout. Raises Unavailable if ssh itself failed."""
    program = shutil.which("ssh")
    if program is None:
        raise InputError("--host needs ssh, and there is none here: install OpenSSH's client")
    words = [program, *(["-t"] if terminal else []), "--", host.login]
    words.append(shlex.join(["sh", "-c", LOGIN, "; ".join(lines)]))
    last: list[bytes] = []
    with subprocess.Popen(words, stderr=subprocess.PIPE, **pipes) as ssh:
        told = threading.Thread(target=_pass_on, args=(ssh, last), daemon=True)
        told.start()
        try:
            yield ssh
        except BaseException:
            ssh.terminate()
            raise
        finally:
            if ssh.stdin:
                with contextlib.suppress(BrokenPipeError):
                    ssh.stdin.close()
            ssh.wait()
            told.join()
    said = b"".join(last).decode(errors="replace").strip()
    if ssh.returncode == NO_CONNECTION:
        raise Unavailable(f"can't reach {host.login}: {said or 'ssh failed, as it says above'}")
    if said and not (terminal and said.endswith(" closed.")):  # "Connection to login closed."
        _to_stderr(b"".join(last))


def _pass_on(ssh: subprocess.Popen[bytes], last: list[bytes]) -> None:
    """Copy ssh's stderr to ours until ssh ends; what it said just before stays in `last`.

    The pipe may stay open: a connection that ssh shares with later ones holds it, too.
    """
    assert ssh.stderr is not None
    fd = ssh.stderr.fileno()
    while True:
        ended = ssh.poll() is not None
        if not select.select([fd], [], [], 0 if ended else HOLD_S)[0]:
            if ended:
                return
            _to_stderr(b"".join(last))
            last.clear()
        elif data := os.read(fd, 65536):
            *whole, rest = (b"".join(last) + data).splitlines(keepends=True)
            _to_stderr(b"".join(whole))
            last[:] = [rest]
        else:
            return


def _to_stderr(text: bytes) -> None:
    if text:
        sys.stderr.flush()
        with contextlib.suppress(BrokenPipeError):
            os.write(2, text)


def enter(host: Host, files: Mapping[str, bytes]) -> list[str]:
    """Lines of sh that go into the directory there. With files, it is made, and they are put there whole."""
    where, no_folder = _path(host.folder), f"{host.login} has no directory {host.folder}"
    lines = [
        "unset CDPATH",
        f"cd -- {where} 2>/dev/null || {fail(f'{no_folder}: name another with --host HOST:DIR')}",
    ]
    if not files:
        return lines
    lines.insert(0, f"mkdir -p -- {where} || exit 1")
    packed = {name: base64.b64encode(gzip.compress(data)).decode() for name, data in files.items()}
    if (size := sum(map(len, packed.values()))) > MOST_SENT:
        raise InputError(
            f"{', '.join(files)}: {size:,} characters when packed, more than {MOST_SENT:,}: "
            f"copy it to {host.login}, and name it by its path there"
        )
    for name, text in packed.items():
        folder, _, base = name.rpartition("/")
        new = f'{shlex.quote(f"{folder}/.{base}.")}"$$"'
        lines.append(
            f"mkdir -p {shlex.quote(folder)} && echo {text} | base64 -d | gzip -d > {new} "
            f"&& mv {new} {shlex.quote(name)} || exit 1"
        )
    return lines


def _program(host: Host) -> list[str]:
    """Set kd to what KDSWEEP_REMOTE says, else to what is installed in the directory, else in PATH."""
    if named := os.environ.get("KDSWEEP_REMOTE"):
        lines = [f"kd={_path(named)}"]
    else:
        lines = ["kd=.venv/bin/kdsweep", '[ -x "$kd" ] || kd=kdsweep']
    what = f"no {named or 'kdsweep'} on {host.login}"
    remedy = f"install it there, in {host.folder}/.venv or in PATH, or set KDSWEEP_REMOTE to its path there"
    return [*lines, f'command -v "$kd" >/dev/null || {fail(f"{what}: {remedy}")}']


def _compared(host: Host) -> list[str]:
    mine = version("kdsweep")
    alike = ".".join(mine.split(".")[:2])
    note = shlex.quote(f"note: here is kdsweep {mine}, on {host.login} ")
    return ['v=$("$kd" --version)', f'case $v in *" {alike}."*);; *) echo {note}"$v" >&2;; esac']


def _environment(terminal: bool) -> list[str]:
    """What decides on colours, and how wide lines are; ssh itself tells a terminal's size."""
    found = {name: os.environ[name] for name in PASSED if name in os.environ}
    if not terminal and (columns := shutil.get_terminal_size((0, 0)).columns):
        found["COLUMNS"] = str(columns)
    return [f"export {name}={shlex.quote(value)}" for name, value in found.items()]


def _path(path: str) -> str:
    """A path there as a word of sh, below the home if it begins with ~."""
    home, rest = ('"$HOME"/', path[2:]) if path == "~" or path.startswith("~/") else ("", path)
    return home + shlex.quote(rest)


def fail(message: str) -> str:
    """A command of sh that says so and ends."""
    return f"{{ echo {shlex.quote(f'error: {message}')} >&2; exit 2; }}"
