"""What `restore --dry-run` checks of the file, and questions that a progress bar does not hide."""

import json
import subprocess
from pathlib import Path

from pgkeep.postgres.server import Server
from tests.conftest import DatabaseFactory
from tests.support import invoke, servers

BAR_SHOWN, BAR_REMOVED = "\x1b[?25l", "\x1b[?25h"  # the cursor is hidden while a bar is shown


def test_a_dry_run_checks_the_file_as_the_restore_does(
    pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """E15: a plan for a file that cannot be restored is no plan."""
    name = database(pg17)
    rows = "select i, md5(i::text) pad from generate_series(1, 5000) i"
    servers.sql(pg17, name, f"create table t as {rows}")
    artifact = invoke.backup(pg17, name, tmp_path)
    env = invoke.environment(pg17, BACKUP_DIR=str(tmp_path))

    def dry(file: object, *args: str, code: int = 0) -> str:
        more = args or (f"--target-db={name}_copy",)
        return invoke.run("restore", f"--backup={file}", *more, "--dry-run", env=env, code=code)

    hashes = "checked  end marker, index, hashes of all members, SHA-256\n"
    assert dry(artifact).endswith(hashes)
    assert json.loads(dry(artifact, f"--target-db={name}_copy", "--json"))["checked"][0] == (
        "end marker"
    )
    assert "hashes of the members of these tables" in dry(artifact, "--table=t", "--as=u")
    plain = tmp_path / "plain.sql"
    plain.write_bytes(servers.dump(pg17, name))
    assert dry(plain).endswith("checked  structure of the SQL\n")
    plain.write_bytes(plain.read_bytes()[:-200])
    assert "ends inside the data of a COPY" in dry(plain, code=5)
    # What is no dump at all is refused before anything else, also where the plan has problems.
    for args in ((), (f"--target-db={name}",), ("--table=t",), ("--in-place",)):
        assert "not a plain dump of pg_dump" in dry("/etc/passwd", *args, code=5), args
    changed = bytearray(artifact.read_bytes())
    changed[len(changed) // 3] ^= 1  # among the rows
    artifact.write_bytes(changed)
    assert "SHA-256 is" in dry(artifact, code=5)
    assert "member 1 (public.t)" in dry(artifact, "--table=t", "--as=u", code=5)
    for side in tmp_path.glob(f"{artifact.name.removesuffix('.sql.gz')}.*"):
        if side != artifact:
            side.unlink()
    assert "the SHA-256 differs" in dry(artifact, code=5)
    subprocess.run(["truncate", "--size=-1", str(artifact)], check=True)
    assert "no end marker" in dry(artifact, code=5)


def test_a_question_is_not_hidden_by_the_progress_bar(
    pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """E16: the bar refreshes itself ten times a second, and wrote over the question."""
    name = database(pg17)
    servers.sql(pg17, name, "create table t as select 1 a")
    artifact = invoke.backup(pg17, name, tmp_path)
    servers.sql(pg17, name, "delete from t")
    args = ["restore", f"--backup={artifact}", "--table=t", "--where=a = 1"]
    question = "Write them? [y/N] "
    for answer, expected in (("n", 9), ("y", 0)):
        code, shown = invoke.on_terminal(
            *args, env=invoke.environment(pg17), answers={question: answer}
        )
        assert code == expected, shown
        before, after = shown.split(question)
        assert before.count(BAR_SHOWN) == before.count(BAR_REMOVED) > 0, "the bar is shown"
        assert "1 row of the backup matches" in before
        assert after.startswith(f"{answer}\r\n"), "something was written into the question"
    assert after.count(BAR_SHOWN) == 1, "it continues after the answer"
    assert servers.sql(pg17, name, "select a from t") == [(1,)]
