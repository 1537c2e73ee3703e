"""pgkeep config."""

import textwrap

from ..config import SECRETS, SETTINGS, Config, Value
from . import output
from .command import pgkeep_command
from .common import dir_option, jobs_option, json_option, load_configs, print_json, target_option

_VARIABLES = "\n".join(
    textwrap.fill(
        one.meaning, 78, initial_indent=f"  {one.variable:25}", subsequent_indent=" " * 27
    )
    for one in SETTINGS
)


@pgkeep_command(
    "config",
    examples=("pgkeep config", "pgkeep config --target=shop --json"),
    epilog=f"""\b
Variables, each also as NAME_FILE (a file that holds the value), and in lower case
as keys of the pgkeep.toml that PGKEEP_CONFIG names, at its top or in [targets.NAME]:
{_VARIABLES}
""",
)
@target_option
@dir_option
@jobs_option
@json_option
def command(*, target: str | None, directory: str | None, jobs: str | None, as_json: bool) -> None:
    """Show the effective settings and where each comes from; secrets are hidden."""
    configs = load_configs(target=target, directory=directory, jobs=jobs)
    if as_json:
        print_json([{"target": config.target, "settings": _settings(config)} for config in configs])
        return
    for one in configs:
        if one.target is not None:
            output.say(f"target {one.target}")
        for variable, (text, origin) in _settings(one).items():
            output.say(f"{variable:24} {text or '-':20} {origin}")


def _settings(config: Config) -> dict[str, tuple[str, str]]:
    shown = {}
    for setting in SETTINGS:
        text, origin = config.values.get(setting.variable, Value(setting.default, "the default"))
        hidden = setting.variable in SECRETS and text
        shown[setting.variable] = ("********" if hidden else text, origin)
    return shown
