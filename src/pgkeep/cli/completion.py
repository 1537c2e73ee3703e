"""pgkeep completion."""

import click
from click.shell_completion import get_completion_class

from .command import pgkeep_command

VARIABLE = "_PGKEEP_COMPLETE"  # click looks for it


@pgkeep_command(
    "completion",
    examples=(
        'eval "$(pgkeep completion bash)"    # in ~/.bashrc',
        'eval "$(pgkeep completion zsh)"     # in ~/.zshrc, after compinit',
        "pgkeep completion fish > ~/.config/fish/completions/pgkeep.fish",
    ),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(*, shell: str) -> None:
    """Print the script that completes commands, options and file names in a shell."""
    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 - click has these three
    group = click.get_current_context().find_root().command
    click.echo(kind(group, {}, "pgkeep", VARIABLE).source())
