"""Copies a sweep from a login node: what differs here, each file whole. Trusts nothing that comes from there.

One connection: `find` there lists names, sizes and times; names of what is wanted go back; `tar` sends those.
A name is taken only if it was listed and asked for, and only as a regular file of about the size listed.
"""

import contextlib
import os
import re
import shlex
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from kd.errors import InputError, Unavailable
from kd.files import write_atomically
from orchestrator.run.remote import Host, connected, enter, fail
from orchestrator.words import quoted

SMALL = ("*.json", "*.jsonl", "*.yaml", "log.txt")  # all that laws, answers and reports read
MODEL = "model.safetensors"
# That machine's own, or made anew from the rest.
NEVER = ("./slurm", "./lock", "./mlflow.db*", "./results/*.parquet")
# Written by commands here, too: the newer one stays.
OURS = ("laws.json", "laws_tracked.json", "laws_untracked.json", "profile.json")
FIRST = "spaces/001.yaml"  # never changes: which sweep it is
MOST_LISTED, CHUNK = 1 << 30, 1 << 20  # bytes; of 10^6 points it is some 300 MB
LISTED = re.compile(rb"(\d{1,15}) (\d{1,11})\.(\d{9})\d* (.+)", re.DOTALL)
NAME = re.compile(r"[^\x00-\x1f\x7f/]{1,255}(/[^\x00-\x1f\x7f/]{1,255}){0,9}")


class File(NamedTuple):
    """A file there: bytes, and nanoseconds since 1970."""

    size: int
    mtime_ns: int


@dataclass
class Fetched:
    """What came; wanted: files that were missing or differed here, of `listed` there."""

    listed: int = 0
    wanted: int = 0
    wanted_bytes: int = 0
    files: int = 0
    bytes: int = 0


def fetch(
    host: Host,
    sweep: str,
    folder: Path,
    patterns: Sequence[str],
    *,
    dry_run: bool = False,
    progress: Callable[[Fetched], None] = lambda fetched: None,
) -> Fetched | None:
    """Bring what differs of a sweep there into `folder`; None if the host says on stderr why it can't.

    patterns: of names, or of paths if they hold a slash, as `find` reads them. progress: called as data come.
    Raises InputError if the folder holds another sweep, or what comes was not asked for; Unavailable when the
    connection breaks, with what came by then kept.
    """
    fetched, listing, cut = Fetched(), None, None
    script, pipe = _script(host, sweep, patterns), subprocess.PIPE
    try:
        with connected(host, script, stdin=pipe, stdout=pipe) as ssh:
            assert ssh.stdin
            assert ssh.stdout
            listing = _listing(ssh.stdout, host)
            wanted = _wanted(listing or {}, folder)
            fetched = Fetched(len(listing or {}), len(wanted), sum(file.size for file in wanted.values()))
            if wanted and not dry_run:
                threading.Thread(target=_ask, args=(ssh.stdin, list(wanted)), daemon=True).start()
                try:
                    for name, file, content in _received(ssh.stdout, wanted, host):
                        _write(folder, name, file, content, fetched, progress)
                except tarfile.ReadError as error:
                    cut = error  # most likely ssh ends now, and tells why
            else:
                ssh.stdin.close()
        if cut:
            raise Unavailable(f"{host.login} sent a broken archive: {cut}")
    except Unavailable as error:
        if listing is None:
            raise
        came = f"{fetched.files} of {fetched.wanted} files came"
        raise Unavailable(f"{error}\n{came}: the same command fetches the others") from None
    if listing is not None and not dry_run:
        _forget_errors(listing, folder)
    return None if listing is None else fetched


def _script(host: Host, sweep: str, patterns: Sequence[str]) -> list[str]:
    """Lines of sh: the listing, then what stdin names as a tar archive."""
    never = " -o ".join(f"-path {shlex.quote(path)}" for path in NEVER)
    some = " -o ".join(f"{'-path' if '/' in p else '-name'} {shlex.quote(p)}" for p in patterns)
    return [
        *enter(host, {}),
        f"for s in {shlex.quote(sweep)} {shlex.quote(f'sweeps/{sweep}')}; do "
        'if [ -f "$s"/space.yaml ] || [ -d "$s"/points ]; then cd -- "$s" || exit 1; export LC_ALL=C; '
        f"find . -mindepth 1 '(' -name '.*' -o {never} ')' -prune -o -type f '(' {some} ')' "
        r"-printf '%s %T@ %P\0' >&3; printf '\0' >&3; "
        'read -r go; [ "$go" = go ] || exit 0; exec tar -cf - --null --no-recursion -T - >&3 3>&-; fi; done',
        fail(
            f"no sweep at {sweep} or sweeps/{sweep} in {host.folder} on {host.login}: "
            f"see kdsweep ls --host {quoted(f'{host.login}:{host.folder}')}"
        ),
    ]


def _listing(stream: IO[bytes], host: Host) -> dict[str, File] | None:
    """Names there, each with size and time; None if they are cut short."""
    text = bytearray()
    while not text.endswith(b"\0\0") and text != b"\0":
        data = os.read(stream.fileno(), CHUNK)
        if not data:
            return None
        text += data
        if len(text) > MOST_LISTED:
            raise InputError(f"{host.login} lists more than {MOST_LISTED:,} bytes of names: that is no sweep")
    found = {}
    for entry in filter(None, text.split(b"\0")):
        match = LISTED.fullmatch(entry)
        name = match[4].decode(errors="replace") if match else ""
        if not match or not NAME.fullmatch(name) or {".", ".."} & set(name.split("/")):
            raise InputError(
                f"{host.login} lists {bytes(entry)!r}, which is no file of a sweep: rename it there"
            )
        found[name] = File(int(match[1]), int(match[2]) * 10**9 + int(match[3]))
    return found


def _wanted(there: dict[str, File], folder: Path) -> dict[str, File]:
    """What differs here, in the order in which to send it.

    Which sweep it is, first; results after all else of the points; then the plan, which holds every point of
    them. So what was fetched while the sweep ran, or until a connection broke, is whole.
    """
    wanted = {}
    for name in sorted(there, key=_order):
        file = there[name]
        try:
            stat = (folder / name).stat()
        except FileNotFoundError:
            wanted[name] = file
            continue
        newer_here = name in OURS and stat.st_mtime_ns > file.mtime_ns
        if (stat.st_size, stat.st_mtime_ns) != file and not newer_here:
            wanted[name] = file
    return {FIRST: there[FIRST]} | wanted if wanted and FIRST in there else wanted


def _order(name: str) -> tuple[int, str]:
    if name == FIRST:
        return 0, name
    if not name.startswith("points/"):
        return 3, name
    return 2 if name.endswith("/result.json") else 1, name


def _ask(stdin: IO[bytes], names: list[str]) -> None:
    """Send names; beside the reader, since tar answers before it has read all."""
    with contextlib.suppress(OSError, ValueError):  # the connection broke: the reader sees it, too
        stdin.write(b"go\n")
        stdin.write(b"".join(f"./{name}\0".encode() for name in names))
        stdin.close()


def _received(
    stream: IO[bytes], wanted: dict[str, File], host: Host
) -> Iterator[tuple[str, File, IO[bytes]]]:
    """Files of the archive: each wanted, regular, and not much larger than listed, as it may have grown."""
    left = dict(wanted)
    with tarfile.open(fileobj=stream, mode="r|", encoding="utf-8") as archive:
        for member in archive:
            name = member.name.removeprefix("./")
            file = left.pop(name, None)
            if file is None or not member.isreg() or member.size > 2 * file.size + CHUNK:
                raise InputError(
                    f"{host.login} sent {member.name!r} of {member.size:,} bytes, not what was asked for: "
                    "fetch again, and if it stays so, don't trust that machine"
                )
            content = archive.extractfile(member)
            assert content
            yield name, file, content


def _write(
    folder: Path,
    name: str,
    file: File,
    content: IO[bytes],
    fetched: Fetched,
    progress: Callable[[Fetched], None],
) -> None:
    path = folder / name

    def write(temporary: Path) -> None:
        with temporary.open("wb") as out:
            while data := content.read(CHUNK):
                out.write(data)
                fetched.bytes += len(data)
                progress(fetched)
        if name == FIRST and path.exists() and path.read_bytes() != temporary.read_bytes():
            raise InputError(f"{folder} holds another sweep: choose another directory with -o")
        os.utime(temporary, ns=(file.mtime_ns, file.mtime_ns))

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, write, durable=False)
    fetched.files += 1


def _forget_errors(there: dict[str, File], folder: Path) -> None:
    """Remove errors of points that have none there any more: `kdsweep retry` took them."""
    for path in folder.glob("points/*/error.json"):
        if path.relative_to(folder).as_posix() not in there:
            path.unlink(missing_ok=True)
