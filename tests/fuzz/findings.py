"""What fuzzing and the work on it have found, for docs/fuzz.md: the test that guards each."""

from typing import NamedTuple


class Finding(NamedTuple):
    """A defect that was found and fixed."""

    target: str
    found: str  # before the fix
    test: str  # in test_findings.py


FINDINGS = (
    Finding("backup-files", "An index with text that is not UTF-8, or with deep nesting, ended in a"
            " traceback.", "test_an_index_that_cannot_be_decoded"),
    Finding("backup-files", "A member of negative or endless length was read.",
            "test_a_member_of_impossible_length"),
    Finding("backup-files", "`pgkeep show` divided by zero if a member with rows has no SQL.",
            "test_a_member_without_sql_that_has_rows"),
    Finding("backup-files", "The encoding in an index selected any codec of Python, such as `hex`.",
            "test_an_encoding_that_no_server_has"),
    Finding("sql", "A statement of 1 kB with many quotes or words in parentheses took exponential"
            " time to verify: an `INSERT`, a `COPY`, and in a restore `ALTER`, `GRANT`,"
            " triggers, rules and security labels.", "test_quotes_that_can_be_read_in_many_ways"),
    Finding("sql", "A truncated parse tree, or a number of 5,000 digits in one, ended in a"
            " traceback.", "test_a_parse_tree_that_no_server_writes"),
    Finding("documents", "A comment on a database that only looks like one of pgkeep ended in a"
            " traceback. Any owner of a database can write it.",
            "test_a_comment_that_only_looks_like_ours"),
    Finding("documents", "A pattern of databases or tables with many wildcards took exponential"
            " time.", "test_patterns_with_many_wildcards"),
    Finding("documents", "The name of a record of the year 26 was accepted, and written back with"
            " fewer digits.", "test_the_name_of_a_record_of_an_impossible_time"),
    Finding("physical", "PostgreSQL's manifest in a base backup with other types ended in a"
            " traceback.", "test_a_manifest_of_postgresql_that_is_something_else"),
    Finding("physical", "Descriptions of clusters and states of receivers that are not UTF-8, or"
            " deeply nested, ended in a traceback.",
            "test_states_and_results_that_cannot_be_decoded"),
    Finding("physical", "The manifest of a base backup could name files in other directories,"
            " which retention would remove.", "test_a_base_backup_with_files_elsewhere"),
    Finding("physical", "A base backup of the year 1 or 9999 with a time zone ended in a"
            " traceback.", "test_a_base_backup_of_an_impossible_time"),
    Finding("physical", "A tar archive of a thousand extended headers ended in a traceback, after"
            " it had used a lot of memory.", "test_a_tar_archive_of_headers_of_headers"),
    Finding("physical", "Output of `pg_waldump` with impossible numbers or times ended in a"
            " traceback. A user can write such text into the WAL.",
            "test_a_record_of_the_wal_that_no_server_writes"),
    Finding("physical", "A time without a zone in the state of a receiver or the result of a drill"
            " ended in a traceback.", "test_times_without_a_zone"),
    Finding("surroundings", "An answer of a bucket that is not XML ended in a traceback.",
            "test_an_answer_of_a_bucket_that_is_not_xml"),
    Finding("encrypted", "The message about a public key repeated up to 1 MB of it.",
            "test_a_public_key_of_endless_length"),
    Finding("surroundings", "`pgkeep.toml` with deep nesting, a number of 5,000 digits, or a zero"
            " byte in the name of a file ended in a traceback.",
            "test_a_configuration_file_that_python_cannot_read"),
    Finding("encrypted", "A recipient that is not UTF-8 ended in a traceback.",
            "test_a_public_key_that_is_not_text"),
    Finding("surroundings", "An answer of a bucket without a field that it must have, such as that"
            " of a proxy, ended in a traceback.",
            "test_an_answer_of_a_bucket_without_what_it_must_have"),
)  # fmt: skip
