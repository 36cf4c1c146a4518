"""The chain of a sweep's jobs: what each link did, and whether another follows: `python -P -m slurm.chain`.

A link is one run of the job that holds the driver. Standard library only: the job's script calls this on the
node. It decides and records; what Slurm is told is in the script, for all to read.
"""

import argparse
import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from slurm.excluded import excluded
from slurm.head import HEAD, read_head, write_head

LINKS, RECORD, CANCELLED = "links.jsonl", "submission.json", "cancelled"
IDLE_LINKS = 2  # links that had time to work and trained nothing, one after the other, before the chain stops
LOST = "LOST"
LOST_LINKS = 5  # the same, Ray having been killed under some of them: by bad luck, or it can't live there
EVENTS: dict[str, dict[str, Any]] = {  # lines of links.jsonl, and what each has
    "begin": {"link": str, "job": str, "host": str, "time": (int, float), "progress": list},
    "end": {"link": str, "code": int, "verdict": str, "why": str, "ended": (int, float), "progress": list},
    "successor": {"job": str},
}
GO, OVER, STOP = 0, 10, 75  # exit codes of `begin`: train; nothing left, or not wanted; give up


def read_links(here: Path) -> list[dict[str, Any]]:
    """The links in order: what `begin` wrote, with what `end` added, if it came to that."""
    links: dict[str, dict[str, Any]] = {}
    for entry in _lines(here / LINKS):
        if entry["event"] == "begin":
            links[entry["link"]] = {"code": None, "verdict": None, "why": None, "ended": None, **entry}
        elif entry["event"] == "end" and entry["link"] in links:
            links[entry["link"]] |= {k: entry.get(k) for k in ("code", "verdict", "why", "ended", "signal")}
            links[entry["link"]]["progress_after"] = entry["progress"]
    return list(links.values())


def successors(here: Path) -> list[str]:
    """Ids of jobs that this submission's jobs submitted."""
    return [entry["job"] for entry in _lines(here / LINKS) if entry["event"] == "successor"]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """A line that a full disk or a kill cut short, or that lacks what its event has, is left out."""
    with contextlib.suppress(FileNotFoundError), path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            with contextlib.suppress(ValueError, RecursionError):
                entry = json.loads(line)
                keys = EVENTS.get(str(entry.get("event"))) if isinstance(entry, dict) else None
                if keys and all(isinstance(entry.get(key), kind) for key, kind in keys.items()):
                    yield entry


def progress(sweep: Path, links: Sequence[dict[str, Any]] = ()) -> list[float]:
    """[points done, when a checkpoint was last written (Unix s)]: grows, as a list, with every gain.

    Epochs are not counted: those since the last checkpoint are trained again after a kill. Counting looks at
    every point, so a gain over all links before that the last one's driver told of is taken at its word; that
    there was none is always counted, since a kill may have come before it could tell.
    """
    if links:
        best = max([link["progress"] for link in links] + [link.get("progress_after", [0]) for link in links])
        told = _told(sweep, links[-1]["time"])
        if told and told > best:
            return [told[0], max(told[1], *best[1:])]
    return _counted(sweep)


def _told(sweep: Path, since: float) -> list[float] | None:
    """What the driver's heartbeat says, if it is younger than that: an older one may be of before a retry."""
    try:
        beat = json.loads((sweep / "progress.json").read_text(encoding="utf-8"))
        done, last = beat["done"], beat["checkpointed"] or 0.0
        return [int(done), float(last)] if beat["time"] > since else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _counted(sweep: Path) -> list[float]:
    """What the points' folders say: one look at each that is done, two at others."""
    done, last, points = 0, 0.0, str(sweep / "points")
    with contextlib.suppress(FileNotFoundError), os.scandir(points) as folders:
        for folder in folders:
            for name in ("result.json", "checkpoint.pt"):
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    found = os.stat(f"{points}/{folder.name}/{name}")
                    if name == "result.json":
                        done += 1
                        break
                    last = max(last, found.st_mtime)
    return [done, last]


def idle_links(links: list[dict[str, Any]], now: list[float]) -> int:
    """How many links, the last ones, got no further than any before, if that is enough to stop; else 0.

    A link that a node failure, a kill or preemption (TERM) ended had no time to work. now: progress after the
    last one.
    """
    after = [link["progress"] for link in links[1:]] + [now]
    best, idle, lost = links[0]["progress"] if links else now, 0, 0
    for link, reached in zip(links, after, strict=False):
        if reached > best:
            idle = lost = 0
        elif link["ended"] is not None and link.get("signal") != "TERM":
            idle += 1
            lost += link.get("signal") == LOST
        best = max(best, reached)
    return idle if idle - lost >= IDLE_LINKS or idle >= LOST_LINKS else 0


def verdict(
    code: int, links: list[dict[str, Any]], now: list[float], max_links: int, cancelled: bool
) -> tuple[str, str]:
    """("done" | "again" | "stop", why) after a link whose driver ended with `code`. links: with this one."""
    if code == 0:
        return "done", "every point is trained, or what was asked is answered"
    if code == 3:
        return (
            "done",
            "every point is trained, has failed, waits for one that has, or was left: kdsweep status SWEEP",
        )
    if code not in (75, 130) and code < 128:  # above 128: a signal ended it
        return "stop", f"the driver failed with {code}; see above"
    if cancelled:
        return "stop", "cancelled; kdsweep submit goes on"
    if len(links) >= max_links:
        return "stop", f"{max_links} links, as many as allowed; kdsweep submit goes on"
    if idle := idle_links(links, now):
        cause = "jobs are too short for a point, or start badly"
        if code == 137:  # 128 and the signal, as bash has it
            cause = "the driver was killed (signal 9), perhaps out of memory: ask for more, or fewer slots"
        return "stop", f"nothing was trained in {idle} links: {cause}"
    return "again", "more to do"


def begin(here: Path, link: str) -> int:
    """Record that a link begins, unless nothing should."""
    links = read_links(here)
    record = json.loads((here / RECORD).read_text(encoding="utf-8"))
    now = progress(here.parent.parent, links)
    if (here / CANCELLED).exists():
        say("cancelled")
        return OVER
    ended = [known for known in links if known["verdict"] in ("done", "stop") and known["link"] != link]
    if ended:
        say(f"nothing to do: {ended[-1]['why']}")
        return OVER
    if len(links) >= record["max_links"] and all(known["link"] != link for known in links):
        say(f"{record['max_links']} links, as many as allowed; kdsweep submit goes on")
        return STOP
    if links and (idle := idle_links(links, now)):
        say(f"nothing was trained in {idle} links; see the outputs in {here}")
        return STOP
    _append(
        here,
        {
            "event": "begin",
            "link": link,
            "job": os.environ.get("SLURM_JOB_ID", ""),
            "host": socket.gethostname(),
            "time": time.time(),
            "progress": now,
        },
    )
    for node, why in excluded(here).items():
        say(f"excluded: {node}: {why}")
    return GO


def end(here: Path, link: str, code: int, signal: str = "") -> str:
    """Record how a link ended, tell the workers, and say what follows.

    signal: what stopped the driver: USR1 (the time limit, a cancel), TERM (preemption), LOST (Ray was killed
    under it), or nothing.
    """
    record = json.loads((here / RECORD).read_text(encoding="utf-8"))
    links = read_links(here)
    now = progress(here.parent.parent, links)
    entry = {"event": "end", "link": link, "code": code, "signal": signal, "ended": time.time()}
    links = [known | entry if known["link"] == link else known for known in links]
    what, why = verdict(code, links, now, record["max_links"], (here / CANCELLED).exists())
    say(f"link {link} ended with {code}: {what}: {why}")
    entry |= {"verdict": what, "why": why}
    try:
        _append(here, {**entry, "progress": now})
    except OSError as error:  # a full disk: don't go on in circles on it
        say(f"{here / LINKS}: {error}; no further link")
        what = "stop"
    head = read_head(here)
    if not head or head["link"] != link:  # it has not come up yet, and need not
        head = {"link": link}
    try:
        write_head(here, {**head, "state": "gone" if what == "again" else "over"})
    except OSError:
        (here / HEAD).unlink(missing_ok=True)
    return what


def worker_goes_on(here: Path, restarts: int) -> bool:
    """Whether a worker whose time is over should be put back into the queue."""
    record = json.loads((here / RECORD).read_text(encoding="utf-8"))
    head = read_head(here)
    over = (head is not None and head["state"] == "over") or (here / CANCELLED).exists()
    return not over and restarts + 1 < record["max_links"]


def _append(here: Path, entry: dict[str, Any]) -> None:
    fd = os.open(here / LINKS, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        size = os.fstat(fd).st_size
        cut = size and os.pread(fd, 1, size - 1) != b"\n"  # by a full disk, which spoils that line only
        line = ("\n" * bool(cut) + json.dumps(entry) + "\n").encode()
        if os.write(fd, line) < len(line):
            raise OSError(28, "the disk is full")
    finally:
        os.close(fd)


def say(text: str) -> None:
    """A line in the job's output."""
    print(f"{time.strftime('%H:%M:%S')} chain: {text}", file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    """begin: exit code says whether to train. end, worker: the word on stdout says what follows."""
    parser = argparse.ArgumentParser(prog="python -m slurm.chain", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("begin", "end", "successor", "worker"):
        sub = commands.add_parser(name)
        sub.add_argument("here", type=Path)
        sub.add_argument("link" if name in ("begin", "end") else "value")
        if name == "end":
            sub.add_argument("code", type=int)
            sub.add_argument("signal", nargs="?", default="")
    args = parser.parse_args(argv)
    if args.command == "begin":
        return begin(args.here, args.link)
    if args.command == "end":
        print(end(args.here, args.link, args.code, args.signal))
    elif args.command == "successor":
        _append(args.here, {"event": "successor", "job": args.value, "time": time.time()})
    else:
        print("again" if worker_goes_on(args.here, int(args.value)) else "over")
    return 0


if __name__ == "__main__":
    sys.exit(main())
