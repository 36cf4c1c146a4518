"""`kdsweep completion SHELL`: the script that completes commands, options, sweeps and points."""

import click
from click.shell_completion import get_completion_class

VARIABLE = "_KDSWEEP_COMPLETE"  # what click looks for in the environment, by the program's name


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script for SHELL.

    \b
    bash: kdsweep completion bash > ~/.kdsweep-complete.bash; then, in ~/.bashrc: . ~/.kdsweep-complete.bash
    zsh:  kdsweep completion zsh > ~/.kdsweep-complete.zsh; then, in ~/.zshrc: . ~/.kdsweep-complete.zsh
    fish: kdsweep completion fish > ~/.config/fish/completions/kdsweep.fish
    """
    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(ctx.find_root().command, {}, "kdsweep", VARIABLE).source())
