"""The runbook for paper: its values, and that its commands work as they are printed."""

import itertools
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jinja2
import pytest

from pgkeep import runbook
from pgkeep.model import naming
from pgkeep.postgres.server import Server
from pgkeep.scaffold import places
from tests.conftest import DatabaseFactory
from tests.support import baking, invoke, planted, private_keys, servers
from tests.support.place import VIEW

ODD = 'it\'s a "db" $HOME; 1'
OPTIONS = (
    "include_s3", "include_kubernetes", "include_observability", "include_encryption",
    "include_pitr",
)  # fmt: skip


class Placeholders:
    """Leaves everything of the template as it is but the options."""

    def __init__(self, chosen: set[str]) -> None:
        self._chosen = chosen

    def __getattr__(self, name: str) -> str:
        if name in OPTIONS:
            return "yes" if name in self._chosen else "no"
        return f"{{{{ cookiecutter.{name} }}}}"


def test_parts_are_chosen_as_by_cookiecutter() -> None:
    """One text serves both; ours needs no package of an extra."""
    (project,) = places.template().glob("{{*}}")
    text = (project / runbook.PATH).read_text()
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)  # noqa: S701
    names = [*OPTIONS, "paper"]
    for flags in itertools.product((True, False), repeat=len(names)):
        chosen = {name for name, flag in zip(names, flags, strict=True) if flag}
        values: dict[str, Any] = {"cookiecutter": Placeholders(chosen)}
        if "paper" in chosen:
            paper = ("paper", "facts", "exports", "secrets", "suffix", "recipients")
            values |= {name: f"{{{{ {name} }}}}" for name in paper}
        rendered = environment.from_string(text).render(values)
        assert list(runbook.selected(text, chosen)) == rendered.splitlines()


@pytest.mark.parametrize("text", [ODD, "", "a\nb", "\udcff%s\\n'", "plain", "-n"])
def test_names_are_one_word_of_the_shell(text: str, tmp_path: Path) -> None:
    script = f"printf '%s' {runbook.quoted(text)} >out"
    baking.shell(tmp_path, script, env={"PATH": "/usr/bin:/bin"})
    assert (tmp_path / "out").read_bytes() == text.encode("utf-8", "surrogateescape")


@pytest.fixture
def odd(pg17: Server, database: DatabaseFactory) -> str:
    """A database with a quote and a blank in its name."""
    name = database(pg17, name=ODD)
    servers.sql(pg17, name, baking.ORDERS)
    servers.sql(pg17, name, VIEW.replace("to reader", "to public"))
    return name


def test_its_commands_run(pg17: Server, odd: str, tmp_path: Path) -> None:
    """Its blocks, as printed, with another database in the same store; backups are encrypted."""
    backups = tmp_path / "the backups"
    key = private_keys.age_key(tmp_path)
    args = ("--type=daily", "--no-prune")
    made = invoke.backup(pg17, odd, backups, *args, BACKUP_ENCRYPT_TO=key.recipient)
    name = made.name.removesuffix(".sql.gz.age")
    older = planted.another(backups, "daily", "weekly", days=8)
    planted.plant(backups, planted.manifest(datetime.now(UTC) - timedelta(hours=1), database="b"))
    file = tmp_path / "runbook.md"
    settings = {"BACKUP_DIR": str(backups), "BACKUP_ENCRYPT_TO": key.recipient}
    env = invoke.environment(pg17, odd, **settings)
    assert str(file) in invoke.run("runbook", f"--output={file}", env=env)
    text = file.read_text()
    assert name in text
    assert older in text
    assert f"private key of {key.recipient} is kept: ___" in " ".join(text.split())
    printed = baking.blocks(file)

    def play(section: str) -> None:
        some = [
            block for block in printed if (block.section, block.language) == (section, "sh")
        ]  # fmt: skip
        if section == "Wrong migration":
            some = [some[-1], *some[:-1]]  # the backup that was made before it
        for block in baking.play(tmp_path, pg17, some, exports, 17):
            made = [path.name.split(".")[0] for path in backups.glob("*_manual_*Z.sql.gz.age")]
            for stem in made:
                example = re.sub(r"\d{8}T\d{6}Z", runbook.EXAMPLE_TIME, stem)
                block.text = block.text.replace(example, stem)
            query = "select datname from pg_database where datname like %(name)s"
            for (former,) in servers.sql(pg17, "postgres", query, name=f"{odd}\\_\\_%"):
                suffix = former.removeprefix(odd)
                example = re.sub(r"\d{8}T\d{6}Z", runbook.EXAMPLE_TIME, suffix)
                block.text = block.text.replace(example, suffix)

    exports = ""
    rows = servers.sql(pg17, odd, "select * from orders order by id")
    exports = next(block.text for block in printed if block.section == "First steps"
                   and block.language == "sh")  # fmt: skip
    play("First steps")
    private = key.file.read_bytes()
    play("Encrypted backups")  # which removes this copy
    key.file.write_bytes(private)
    key.file.chmod(0o600)
    servers.sql(pg17, odd, "drop table orders cascade")
    play("Dropped table")
    play("Wrong migration")
    servers.drop(pg17, odd)
    (step, *_) = [block for block in printed if block.section == "Lost database"
                  and block.language == "sh"]  # fmt: skip
    baking.shell(tmp_path, exports + step.text, env=baking.shell_environment(tmp_path, 17))
    play("Without pgkeep")
    by_hand = f"{odd}_by_hand"
    assert servers.sql(pg17, by_hand, "select * from orders order by id") == rows
    assert servers.sql(pg17, odd, "select * from orders order by id") == rows
    for suffix in ("by_hand", "decrypted"):
        servers.drop(pg17, f"{odd}_{suffix}")


def test_no_server_no_backups_no_secrets(tmp_path: Path) -> None:
    """From pgkeep.toml, a URL or variables; a server that does not answer is not asked."""
    config = tmp_path / "pgkeep.toml"
    config.write_text(
        '[targets.shop]\ndatabase_url = "postgresql://app:s3cret@192.0.2.1:6432/shop'
        '?sslmode=require"\nbackup_dir = "s3://bucket/a b"\n[targets.other]\n'
        'postgres_host = "192.0.2.2"\npostgres_password = "s3cret"\n'
        'postgres_db = "o t"\n'
    )
    env = invoke.environment(
        PGKEEP_CONFIG=str(config), PGPASSWORD="s3cret", AWS_SECRET_ACCESS_KEY="s3cret",
        AWS_ACCESS_KEY_ID="s3cret", BACKUP_S3_ENDPOINT="http://127.0.0.1:1",
        BACKUP_SERVE_TOKEN="s3cret-s3cret-s3cret", BACKUP_S3_TIMEOUT="1",
    )  # fmt: skip
    out, err = invoke.outputs("runbook", "--target=shop", env=env)
    assert "the runbook names no backups: " in err
    other = invoke.run("runbook", "--target=other", f"--dir={tmp_path}/none", env=env)
    for text in (out, err, other):
        assert "s3cret" not in text
    assert "export PGHOST=192.0.2.1\n   export PGPORT=6432\n   export PGUSER=app\n" in out
    assert "export PGSSLMODE=require\n" in out
    assert "export BACKUP_DIR='s3://bucket/a b'\n" in out
    assert "--backup='s3://bucket/a b/daily/shop_daily_20261122T020000Z.sql.gz'\n" in out
    assert "--bucket bucket --prefix 'a b/' " in out
    assert "`PGPASSWORD`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`" in " ".join(out.split())
    assert "export PGDATABASE='o t'\n" in other
    for text in (out, other):
        assert "**No backups yet.**" in text
        assert "{{" not in text
        assert "{%" not in text
        assert "./scripts" not in text
        prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
        assert max(map(len, prose.splitlines())) <= 80
    assert "aws s3api" not in other
    assert naming.encode_database("o t") in other
    assert "   zcat o%20t_daily_20261122T020000Z.sql.gz |\n" in other
    assert "encrypted backups" not in other
    key = private_keys.gpg_key(tmp_path)
    private_keys.close(key)
    env["BACKUP_ENCRYPT_TO"] = str(key.public)
    ours = invoke.run("runbook", "--target=other", f"--dir={tmp_path}/none", env=env)
    assert f"alone: `{key.fingerprint}`." in " ".join(ours.split())
    assert "   gpg -d o%20t_daily_20261122T020000Z.sql.gz.gpg | zcat |\n" in ours
