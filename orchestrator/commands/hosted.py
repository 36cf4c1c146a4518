"""`--host`: a command runs on a login node. Knows how commands are called, not what they do."""

import re
import sys
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from kd.errors import InputError
from orchestrator.commands.arguments import SITE, SPACE
from orchestrator.commands.echo import echo
from orchestrator.words import quoted


def _known_to_ssh(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Hosts that the user's ssh configuration names."""
    try:
        text = (Path.home() / ".ssh" / "config").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    names = [name for line in re.findall(r"(?im)^\s*host\s+(.*)", text) for name in line.split()]
    plain = [name for name in names if re.fullmatch(r"[\w.-]+", name)]
    return [CompletionItem(name) for name in plain if name.startswith(incomplete)]


HOST = click.Option(
    ["--host"],
    shell_complete=_known_to_ssh,
    envvar="KDSWEEP_HOST",
    metavar="[USER@]HOST[:DIR]",
    help="Do it there, over ssh; DIR is where sweeps/ lies.  [default: $KDSWEEP_HOST; DIR: kdsweep]",
)
SENDING = ("submit", "doctor")  # they run once, so that comparing versions costs little


class Hosted(click.Command):
    """A command with `--host`: the same words are run there, and files they name here go along."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(HOST)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, here or there."""
        given = ctx.params.pop("host")
        if not given:
            return super().invoke(ctx)
        from orchestrator.run import remote

        host = remote.Host.parse(given)
        words, files = _words(ctx, remote.SENT)
        code = remote.run(host, [str(ctx.info_name), *words], files, compare=self.name in SENDING)
        hint = self.name == "submit" and not ctx.params["dry_run"]
        if hint and code == 0 and ctx.get_parameter_source("host") is not ENVIRONMENT:
            echo(f"from here: add --host {quoted(given)}, or set KDSWEEP_HOST to it", err=True)
        sys.exit(code)


ENVIRONMENT, COMMANDLINE = ParameterSource.ENVIRONMENT, ParameterSource.COMMANDLINE


def _words(ctx: click.Context, folder: str) -> tuple[list[str], dict[str, bytes]]:
    """Options and arguments as they were given, and the files among them, by where they will lie there."""
    options, arguments, files = [], [], {}
    for param in ctx.command.params:
        name = str(param.name)
        if param is HOST or ctx.get_parameter_source(name) is not COMMANDLINE:
            continue
        given = ctx.params[name]
        if isinstance(given, bool):
            options.append((param.opts if given else param.secondary_opts)[-1])
            continue
        for value in map(str, given if isinstance(given, tuple) else (given,)):
            if param.type in (SPACE, SITE) and Path(value).is_file():
                there = f"{folder}/{param.type.name}/{_plain(Path(value))}"
                files[there], value = Path(value).read_bytes(), there
            if isinstance(param, click.Option):
                options.append(f"{max(param.opts, key=len)}={value}")
            else:
                arguments.append(value)
    return [*options, *(["--", *arguments] if arguments else [])], files


def _plain(path: Path) -> str:
    if not re.fullmatch(r"\w[\w.+-]*", path.name, re.ASCII):
        raise InputError(f"{path}: for --host, name it with letters, digits, '.', '_', '+' and '-' only")
    return path.name
