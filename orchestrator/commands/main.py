"""The command line. Each command is a module of `orchestrator.commands`, imported only when it is called.

So `--help` costs no import of torch, ray, mlflow or matplotlib. Exit codes: 0 done, 1 failed, 2 usage,
3 partly done, 75 try again later, 130 interrupted.
"""

import contextlib
import importlib
import io
import os
import select
import stat
import sys
from typing import Any

import click

from kd.errors import InputError
from orchestrator.words import escaped_lines

# name -> its line in `kdsweep --help`; the command is orchestrator.commands.<name>.<name>
COMMANDS = {
    "init": "Write the shipped search spaces and site profiles into a folder.",
    "plan": "Show what a search space would run: points, sizes, order, cost.",
    "run": "Run a search space here, or on a Ray cluster given by address.",
    "submit": "Run a search space on Slurm; returns at once.",
    "status": "Show the status of a sweep.",
    "ls": "List sweeps: points done and failed, best error, last activity.",
    "results": "List trained points, as a table, CSV, Parquet or JSON.",
    "show": "Show one point: size, strategy, errors, files, training curve.",
    "why": "Show why a point was trained, paused or left (run --answer).",
    "compare": "Compare two sweeps, point by point.",
    "logs": "Show why points failed, or the history of one point.",
    "check": "Check a sweep's files, and mend what is damaged.",
    "retry": "Make failed points trainable again.",
    "fetch": "Copy a sweep's results from a login node.",
    "cancel": "Stop a sweep after a checkpoint.",
    "fit": "Fit the scaling laws of a sweep.",
    "query": "Find the best student for a budget, or the smallest for a target error.",
    "claims": "Judge claims about distillation, in paired comparisons.",
    "suggest": "Suggest what to train next.",
    "report": "Write the report of a sweep: one self-contained HTML file.",
    "evaluate": "Evaluate a trained point on new recordings.",
    "profile": "Measure students as deployed: bytes, latency, int8 drift.",
    "refit": "Train the chosen student on all subjects, to ship.",
    "export": "Export a student to ship.",
    "sync": "Write a sweep's results to MLflow.",
    "dashboard": "Show how to reach the Ray dashboard of a running sweep.",
    "doctor": "Check this machine, and a Slurm site.",
    "data": "Inspect recordings.",
    "schema": "Print the JSON schema of search spaces or site profiles, for editors.",
    "completion": "Print the shell completion script.",
}


class Lazy(click.Group):
    """A group that imports a command's module when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, in the order of a sweep's life."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command, imported now."""
        if name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(f"orchestrator.commands.{name}"), name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with the nearest known command when there is no such one."""
        known = not args or args[0] in COMMANDS or args[0].startswith("-")
        if not known and not ctx.resilient_parsing:  # resilient: while completing in a shell
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"did you mean {near[0]}?" if near else "see kdsweep --help"
            ctx.fail(f"no command {args[0]!r}; {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table above, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="kdsweep")
def cli() -> None:
    """Find the right small heart-rate model for your watch, how to distil it, and what error to expect."""


def main() -> None:
    """Entry point: errors a user can mend become one line on stderr and exit code 2, or theirs.

    `kdsweep ... | head` ends with 0: when nobody reads on, nothing went wrong.
    """
    stdout, pipes = sys.stdout, [fd for fd in (1, 2) if _is_pipe(fd)]
    try:
        try:
            _run()
        finally:  # here, not when the interpreter ends and can only complain
            for stream in filter(None, (sys.stdout, sys.stderr)):
                stream.flush()
    except (BrokenPipeError, SystemExit) as error:
        broken, code = _ends(error, stdout)
        if not broken:
            raise
        if not any(map(_unread, pipes)):
            _fail("a connection broke, to a server or another process: try again", 1)
        for fd in pipes:
            if _unread(fd):
                os.dup2(os.open(os.devnull, os.O_WRONLY), fd)
        sys.exit(code)


def _run() -> None:
    try:
        cli.main(prog_name="kdsweep", standalone_mode=False)
    except InputError as error:
        _fail(str(error), getattr(error, "exit_code", 2))
    except click.ClickException as error:
        said = io.StringIO()
        error.show(said)
        print(escaped_lines(said.getvalue()), end="", file=sys.stderr)
        sys.exit(error.exit_code)
    except click.exceptions.Exit as exit_:
        sys.exit(exit_.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted", 130)
    except BrokenPipeError:
        raise
    except MemoryError as error:
        _fail(f"out of memory{f' ({error})' if str(error) else ''}: free some, or use a larger machine", 1)
    except OSError as error:
        _fail(f"{error.filename or 'the system'}: {error.strerror or error}", 1)


def _ends(error: BaseException, stdout: object) -> tuple[bool, Any]:
    """Whether a broken pipe led to this end, and the exit code without it.

    click and rich turn it into an exit with 1; click has replaced stdout by then.
    """
    pipe = isinstance(error, BrokenPipeError)
    ended = error.__context__ if pipe else error
    if not isinstance(ended, SystemExit):
        return pipe, 0
    if isinstance(ended.__context__, BrokenPipeError) or (ended.code == 1 and sys.stdout is not stdout):
        return True, 0
    return pipe, ended.code


def _is_pipe(fd: int) -> bool:
    with contextlib.suppress(OSError):  # closed
        mode = os.fstat(fd).st_mode
        return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
    return False


def _unread(fd: int) -> bool:
    """Whether nobody reads a pipe any more; rich has put /dev/null in its place by then."""
    if not _is_pipe(fd):
        return True
    poll = select.poll()
    poll.register(fd, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _fail(message: str, code: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # the code says it, too
        print(f"error: {escaped_lines(message)}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
