"""The recovery kit: its commands restore without pgkeep, and it fits one page."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pgkeep.cli import kit_page
from pgkeep.postgres.server import Server
from tests.support import invoke, pages, servers
from tests.support.buckets import Buckets
from tests.support.private_keys import AgeKey, GpgKey

FORMER = Path(__file__).parents[1] / "fixtures" / "backups"
WEEKLY = "shop_weekly_20261126T175451Z"
DAILY = "shop_daily_20261126T130700Z"
# `aws s3 cp URL FILE`: the AWS CLI is no dependency of the tests.
AWS = """\
#!{python}
import sys, botocore.session
s3, cp, url, place, *options = sys.argv[1:]
assert (s3, cp, place, options[0]) == ("s3", "cp", ".", "--endpoint-url")
bucket, _, key = url.removeprefix("s3://").partition("/")
client = botocore.session.get_session().create_client("s3", endpoint_url=options[1])
with open(key.rpartition("/")[2], "wb") as file:
    file.write(client.get_object(Bucket=bucket, Key=key)["Body"].read())
"""


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    aws = folder / "aws"
    aws.write_text(AWS.format(python=sys.executable))
    aws.chmod(0o755)
    return folder


def commands(page: str, title: str) -> str:
    """Return the commands below a heading of the page."""
    found = re.search(
        rf"^{re.escape(title)}\n((?:[^ \n][^\n]*\n)*)((?:  [^\n]+\n)+)", page, re.MULTILINE
    )
    assert found is not None, page
    return found[2]


def test_its_commands_restore(
    pg17: Server, age_key: AgeKey, gpg_key: GpgKey, buckets: Buckets, programs: Path, tmp_path: Path
) -> None:
    """Of two ciphers, from the bucket and from the directory, with the standard programs."""
    folder, elsewhere = tmp_path / "backups", tmp_path / "elsewhere"
    shutil.copytree(FORMER, folder)
    elsewhere.mkdir()
    bucket = buckets.bucket()
    env = {
        **invoke.environment(pg17), **buckets.environment(bucket), **gpg_key.environment,
        "BACKUP_DIR": str(folder), "BACKUP_ENCRYPT_TO": age_key.recipient,
    }  # fmt: skip
    invoke.run("rekey", WEEKLY, env=env)
    invoke.run("rekey", DAILY, env=env | {"BACKUP_ENCRYPT_TO": str(gpg_key.public)})
    invoke.run("sync", "--all", env=env)
    page = invoke.run("key", "kit", f"--identity={age_key.file}", env=env)
    lines = page.splitlines()
    assert len(lines) <= kit_page.LINES
    assert all(len(line) <= 80 for line in lines if not line.startswith("  "))
    assert (age_key.recipient in page, gpg_key.fingerprint in page) == (True, True)
    assert "SECRET-KEY" not in page
    psql = servers.programs_for(17).program("psql")
    path = f"{programs}:{Path(os.fsdecode(psql)).parent}:{os.environ['PATH']}"
    for cipher, place in (
        ("AGE", "2. GET ITS FILES FROM THE BUCKET"), ("GPG", "OR GO TO THE DIRECTORY"),
    ):  # fmt: skip
        titles = ("1. CHOOSE A BACKUP", place, "3. CHECK, THEN ROLES, THEN THE DATABASE")
        script = "".join(commands(page, f"{title} ({cipher})") for title in titles)
        name = f"kit_{cipher.lower()}"
        servers.drop(pg17, name)
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", script.replace("NEWDB", name)],
            env={**env, "PATH": path}, cwd=elsewhere, capture_output=True, text=True, check=False,
        )  # fmt: skip
        try:
            assert done.returncode == 0, (script, done.stderr)
            counted = "select count(*) from pg_stat_user_tables where n_live_tup > 0"
            assert servers.sql(pg17, name, counted)[0][0] > 5
        finally:
            servers.drop(pg17, name)


def test_a_page_with_the_private_key(age_key: AgeKey, gpg_key: GpgKey, tmp_path: Path) -> None:
    """Only if it is asked for, in a new file that only its user can read."""
    env = {**invoke.environment(), "BACKUP_DIR": str(tmp_path)}
    assert "no backup is encrypted" in invoke.run("key", "kit", env=env, code=2)
    env["BACKUP_ENCRYPT_TO"] = age_key.recipient
    file = tmp_path / "kit.html"
    args = ("key", "kit", f"--identity={age_key.file}", f"--output={file}")
    invoke.run(*args, env=env)
    assert "SECRET-KEY" not in file.read_text()
    assert "never replaced" in invoke.run(*args, "--qr", env=env, code=9)
    file.unlink()
    out, err = invoke.outputs(*args, "--qr", env=env)
    private = age_key.file.read_text().split()[-1]
    page = file.read_text()
    assert (private in page, private in out + err, "<svg" in page) == (True, False, True)
    assert file.stat().st_mode & 0o777 == 0o600
    pdf = tmp_path / "kit.pdf"
    options = ["--no-sandbox", "--disable-gpu", "--no-pdf-header-footer", f"--print-to-pdf={pdf}"]
    subprocess.run([pages.CHROMIUM, *options, f"file://{file}"], check=True, capture_output=True)
    assert len(re.findall(rb"/Type\s*/Page\b", pdf.read_bytes())) == 1
    text = f"--output={tmp_path}/kit.txt"
    assert "with pictures" in invoke.run("key", "kit", "--qr", text, env=env, code=2)
    page = f"--output={tmp_path}/other.html"
    assert "found 0" in invoke.run("key", "kit", "--qr", page, env=env, code=2)
    wrong = f"--identity={age_key.file.with_name('none')}"
    shutil.copy(FORMER / f"{WEEKLY}.manifest.json", age_key.file.with_name("none"))
    age_key.file.with_name("none").chmod(0o600)
    assert "expected 1" in invoke.run("key", "kit", "--qr", page, wrong, env=env, code=2)
