"""pgkeep config."""

from ..config import Config, Value
from ..settings import SETTINGS, Group
from . import output
from .command import pgkeep_command
from .common import dir_option, jobs_option, json_option, load_configs, print_json, target_option


@pgkeep_command(
    "config",
    examples=("pgkeep config", "pgkeep config --target=shop --json"),
    epilog="Every variable can also be given as NAME_FILE, the path of a file that contains the"
    " value. In the file that PGKEEP_CONFIG names, the names in lower case are keys, at the top for"
    " all targets or in a table [targets.NAME].",
    lists={
        group: [(setting.variable, setting.help) for setting in SETTINGS if setting.group == group]
        for group in Group
    },
)
@target_option
@dir_option
@jobs_option
@json_option
def command(*, target: str | None, directory: str | None, jobs: str | None, as_json: bool) -> None:
    """Print the effective settings and where each one comes from. Secrets are hidden."""
    configs = load_configs(target=target, directory=directory, jobs=jobs)
    if as_json:
        print_json([{"target": config.target, "settings": _settings(config)} for config in configs])
        return
    for config in configs:
        if config.target is not None:
            output.say(f"target {config.target}")
        for variable, (text, origin) in _settings(config).items():
            output.say(f"{variable:24} {text or '-':20} {origin}")


def _settings(config: Config) -> dict[str, tuple[str, str]]:
    shown = {}
    for setting in SETTINGS:
        text, origin = config.values.get(setting.variable, Value(setting.default, "the default"))
        shown[setting.variable] = ("********" if setting.secret and text else text, origin)
    return shown
