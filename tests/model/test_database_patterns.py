"""Which databases names, patterns and exclusions select."""

import pytest

from pgkeep.model.database_patterns import DatabaseSelection, Excluded, exclusion_of

SERVER = [
    "App", "app", "app_1", "app_22", "azure_sys", "billing", "billing__old_20260102T030405Z",
    "billing__restore_0123abcd", "cloudsqladmin", "pgkeep_drill_0123456789ab", "postgres",
    "rdsadmin", "scratch_1", "scratch_2", "template0", "template1", "two\nlines",
]  # fmt: skip
OURS = {
    "azure_sys", "billing__old_20260102T030405Z", "billing__restore_0123abcd", "cloudsqladmin",
    "pgkeep_drill_0123456789ab", "postgres", "rdsadmin", "template0", "template1",
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "chosen", "unmatched"),
    [
        ("billing,app", ["billing", "app"], []),
        ("missing,app,app", ["missing", "app"], []),
        ("*", [name for name in SERVER if name not in OURS], []),
        ("*,!scratch_*,!two*", ["App", "app", "app_1", "app_22", "billing"], []),
        ("!scratch_*, * , !app*,!two?lines", ["App", "billing"], []),
        ("app_?", ["app_1"], []),
        ("app_?,nothing*,App*", ["App", "app_1"], ["nothing*"]),
        ("billing,app*,!app_1", ["billing", "app", "app_22"], []),
        # An exact name overrides every exclusion; order does not matter.
        ("scratch_1,scratch*,!scratch*", ["scratch_1"], []),
        ("!scratch*,scratch_1", ["scratch_1"], []),
        ("template1,postgres,billing__*", ["template1", "postgres"], []),
        ('["app_1", "*", "!x", "a,b"]', ["app_1", "*", "!x", "a,b"], []),
        ("app[12]*", [], ["app[12]*"]),  # no character classes
    ],
)
def test_what_is_chosen(text: str, chosen: list[str], unmatched: list[str]) -> None:
    """A3.15, A3.16."""
    selection = DatabaseSelection.parse(text)
    found = selection.choose(SERVER, lambda name: name == "postgres")
    assert (found.chosen, found.unmatched) == (chosen, unmatched)
    left = {excluded.database for excluded in found.excluded}
    assert left.isdisjoint(found.chosen)
    if "*" in selection.patterns:
        assert left | set(found.chosen) == set(SERVER)
    assert all(selection.includes(name) for name in found.chosen)


def test_why_databases_are_excluded() -> None:
    """A3.16: each by a rule with a name; nobody asks whether another one than postgres is empty."""
    asked: list[str] = []

    def empty(name: str) -> bool:
        asked.append(name)
        return False

    found = DatabaseSelection.parse("*,!scratch_*").choose([*SERVER, "alloydbadmin"], empty)
    reasons = {excluded.database: excluded.reason for excluded in found.excluded}
    assert reasons == {
        "alloydbadmin": "kept by the provider",
        "azure_sys": "kept by the provider",
        "billing__old_20260102T030405Z": "replaced by a restore",
        "billing__restore_0123abcd": "left behind by an interrupted restore",
        "cloudsqladmin": "kept by the provider",
        "pgkeep_drill_0123456789ab": "used by a drill that runs or was interrupted",
        "rdsadmin": "kept by the provider",
        "scratch_1": "excluded by !scratch_*",
        "scratch_2": "excluded by !scratch_*",
        "template0": "template of CREATE DATABASE",
        "template1": "template of CREATE DATABASE",
    }
    assert "postgres" in found.chosen
    assert asked == ["postgres"]
    found = DatabaseSelection.parse("*").choose(["postgres"], lambda _: True)
    assert found.excluded == [Excluded("postgres", "empty")]


@pytest.mark.parametrize(
    "text", [",", " , ", "!a", "!,a", "*,!", "[]", '[""]', "[1]", '["a"', '["a"],b', "[a]"]
)
def test_what_selects_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="such as "):
        DatabaseSelection.parse(text)


@pytest.mark.parametrize("name", ["app", "a,b", " a", "a\n", "*", "a?b!"])
def test_a_hint_excludes_any_name(name: str) -> None:
    found = DatabaseSelection.parse(f"*,{exclusion_of(name)}").choose([name], lambda _: False)
    assert [excluded.database for excluded in found.excluded] == [name]
