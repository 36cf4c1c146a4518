"""What commands take as arguments: a search space, a sweep, a site, a point; each completes in the shell.

Completing reads names and plan.json only, and knows no torch, ray or mlflow.
"""

from collections.abc import Callable
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from kd.errors import InputError
from orchestrator.store.find import sweep_folder

SWEEPS = Path("sweeps")


class Sweep(click.ParamType[str]):
    """A sweep by name under `sweeps/`, or its directory."""

    name = "sweep"
    other = "dir"  # what the shell itself offers when no name fits

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Sweeps under `sweeps/` that match."""
        names = sorted(f.parent.name for f in SWEEPS.glob("*/space.yaml"))
        known = [CompletionItem(n) for n in names if n.startswith(incomplete) and n.isprintable()]
        return [CompletionItem(incomplete, type=self.other), *known]


class Space(Sweep):
    """A search space's YAML file, or a sweep, whose space is read again."""

    name = "space"
    other = "file"


class Site(click.ParamType[str]):
    """A site profile's YAML file, or the name of a shipped one."""

    name = "site"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Matching shipped profiles, and files."""
        from slurm.site import EXAMPLES  # loads pydantic, which most commands do without

        names = sorted(path.stem for path in EXAMPLES.glob("*.yaml"))
        known = [CompletionItem(name) for name in names if name.startswith(incomplete)]
        return [CompletionItem(incomplete, type="file"), *known]


class Point(click.ParamType[str]):
    """A point's id, or its beginning; the command has an argument `sweep`, which says whose."""

    name = "point"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Matching ids of the sweep's points, each with what it is."""
        from orchestrator.space.plan import Plan

        given = ctx.params.get("sweep")
        try:
            plan = Plan.load(sweep_folder(given) / "plan.json") if given else None
        except InputError:  # no such sweep: nothing to offer
            return []
        taken = ctx.params.get(param.name or "") or ()
        return [
            CompletionItem(p.id, help=f"{'teacher' if p.role == 'teacher' else p.strategy} {p.name}")
            for p in (plan.points if plan else [])
            if p.id.startswith(incomplete) and p.id not in taken
        ]


def question_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of `run` and `submit` that have one question answered, instead of all points trained."""
    for option in reversed(
        (
            click.option(
                "--answer",
                help='Train only what answers this: "max-params=60000", limits as query takes them. '
                "Points are paused, resumed and left; run without it, and the rest is trained.",
            ),
            click.option(
                "--until-regret",
                type=click.FloatRange(min=0, min_open=True),
                help="With --answer: stop when the advised student is at most so many BPM worse than "
                "the best, with probability 0.9.  [default: 0.1, unless --gpu-hours is given]",
            ),
            click.option(
                "--gpu-hours",
                type=click.FloatRange(min=0, min_open=True),
                help="With --answer: train the sweep no longer than this in all (slot-hours on CPUs).",
            ),
        )
    ):
        command = option(command)
    return command


SWEEP, SPACE, SITE, POINT = Sweep(), Space(), Site(), Point()
RECIPE = click.option(
    "--recipe", help="Students of this recipe, by hash or key=value, where a sweep has several."
)  # of `fit`, `query`, `suggest` and `report`
TRACKED = click.option(
    "--tracked/--untracked",
    default=None,
    help="Errors with the tracker behind students, or of single windows.  [default: the sweep's metric]",
)  # of `fit` and `query`
