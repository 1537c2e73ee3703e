"""Names of backup files: what is parsed is written again, and nothing else is taken for one."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgkeep.model import naming
from pgkeep.model.naming import BackupName, BackupType, Cipher

STEM = "app_daily_20261122T020000Z"


@pytest.mark.parametrize(
    ("file", "cipher", "generation", "is_artifact"),
    [
        (f"{STEM}.sql.gz", None, 1, True),
        (f"{STEM}.sql.gz.sha256", None, 1, False),
        (f"{STEM}.globals.sql.gz", None, 1, False),
        (f"{STEM}.manifest.json", None, 1, False),
        (f"{STEM}.sql.gz.age", Cipher.AGE, 1, True),
        (f"{STEM}.sql.gz.gpg.sha256", Cipher.GPG, 1, False),
        (f"{STEM}.globals.sql.gz.age", Cipher.AGE, 1, False),
        (f"{STEM}_key2.sql.gz.age", Cipher.AGE, 2, True),
        (f"{STEM}_key12.globals.sql.gz.gpg", Cipher.GPG, 12, False),
        (f"{STEM}_schema_key3.sql.gz", None, 3, True),
        (f"{STEM}.sql.zst", None, 1, True),
        (f"{STEM}_key2.sql.zst.age", Cipher.AGE, 2, True),
        (f"{STEM}.sql.zst.gpg.sha256", Cipher.GPG, 1, False),
    ],
)
def test_files_of_a_backup(
    file: str, cipher: Cipher | None, generation: int, is_artifact: bool
) -> None:
    name = naming.parse(file)
    assert name is not None
    assert (name.cipher, name.generation) == (cipher, generation)
    assert file in name.files
    assert naming.is_artifact(file) == is_artifact
    plain = BackupName(
        database="app", type=BackupType.DAILY, taken=datetime(2026, 11, 22, 2, tzinfo=UTC),
        schema_only="_schema" in file,
    )  # fmt: skip
    assert name == plain, "cipher and generation belong to the files"
    assert name.id == plain.id
    assert len({name, plain}) == 1
    assert plain.of_file(file).files == name.files


@pytest.mark.parametrize(
    "file",
    [
        STEM,
        f"{STEM}.sql.gz.pgp",
        f"{STEM}.sql.xz",
        f"{STEM}.globals.sql.zst",
        f"{STEM}.sql.gz.age.gpg",
        f"{STEM}.sql.gz.sha256.age",
        f"{STEM}.globals.sql.gz.sha256",
        f"{STEM}.manifest.json.age",
        f"{STEM}_key1.sql.gz.age",
        f"{STEM}_key02.sql.gz.age",
        f"{STEM}_key2.manifest.json",
        f"{STEM}_key2_schema.sql.gz.age",
        f"{STEM}.sql.gz\n",
        "ap%70_daily_20261122T020000Z.sql.gz",
        "app_daily_20261322T020000Z.sql.gz.age",
        "_daily_20261122T020000Z.sql.gz.age",
    ],
)
def test_other_files(file: str) -> None:
    """B16, C26: a name that pgkeep never writes is not that of a backup."""
    assert naming.parse(file) is None
    assert not naming.is_artifact(file)


@given(
    database=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
    type=st.sampled_from(BackupType),
    taken=st.datetimes(datetime(1970, 1, 1), datetime(9000, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    schema_only=st.booleans(),
    compression=st.sampled_from(naming.Compression),
    cipher=st.sampled_from([None, *Cipher]),
    generation=st.integers(1, 999_999),
)
def test_every_name_is_found_again(generation: int, **parts: object) -> None:
    """B16: slashes, quotes, newlines, `_key2` and all suffixes can be in the name of a database."""
    name = BackupName(generation=generation, **parts)  # type: ignore[arg-type]
    for file in name.files[:3]:
        found = naming.parse(file)
        assert found is not None
        assert "/" not in file
        moment = name.taken.replace(microsecond=0)
        assert (found.database, found.type, found.taken) == (name.database, name.type, moment)
        assert (found.cipher, found.generation) == (name.cipher, name.generation)


def test_side_names_of_other_dumps() -> None:
    assert naming.side_names("old.sql.gz.gpg") == (
        "old.sql.gz.gpg.sha256", "old.globals.sql.gz.gpg", "old.manifest.json",
    )  # fmt: skip
    assert naming.side_names(f"{STEM}_key2.sql.gz.age") == (
        f"{STEM}_key2.sql.gz.age.sha256", f"{STEM}_key2.globals.sql.gz.age",
        f"{STEM}.manifest.json",
    )  # fmt: skip
    assert naming.side_names("old.sql.zst.age") == (
        "old.sql.zst.age.sha256", "old.globals.sql.gz.age", "old.manifest.json",
    )  # fmt: skip
    for file in (f"{STEM}.globals.sql.gz", "dump.sql", "x.sql.gz.age.sha256"):
        assert naming.side_names(file) is None
