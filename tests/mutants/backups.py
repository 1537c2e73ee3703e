"""Bugs of backups: locks, the snapshot, names that change, rows, checks before publication."""

from .bug import Bug

RUN = "tests/backup/test_run.py"
CONCURRENCY = "tests/backup/test_concurrency.py"
MOVING = "tests/backup/test_moving_names.py"
FAULTS = "tests/backup/test_faults.py"
TABLE_LOCKS = "tests/postgres/test_table_locks.py"

LOCKS = (
    Bug(
        "lock file of a backup ignored",
        "backup/backup.py",
        "        if not alone:\n            raise _already_running(database, store.url)",
        "        if False:\n            raise _already_running(database, store.url)",
        "A second run removes the unfinished files of the first one.",
        (f"{RUN}::test_of_two_runs_one_works",),
    ),
    Bug(
        "advisory lock of a backup skipped",
        "backup/backup.py",
        "while not advisory_locks.try_acquire(connection, ADVISORY_LOCK):",
        "while False:",
        "Two hosts back up one database at the same time.",
        (f"{RUN}::test_of_two_runs_one_works",),
    ),
    Bug(
        "lock of a run over several databases skipped",
        "backup/run.py",
        "if not advisory_locks.try_acquire(connection, key):",
        "if False:",
        "Two runs each back up some of the databases.",
        (f"{RUN}::test_of_two_runs_over_all_databases_one_works",),
    ),
    Bug(
        "locks on manifests ignored",
        "catalog/locks.py",
        "        if not alone:\n            raise e.StoreError",
        "        if False:\n            raise e.StoreError",
        "Two changes of a manifest overwrite each other, or a removed manifest comes back.",
        ("tests/catalog/test_offsite.py::test_a_manifest_is_changed_or_removed_by_one_at_a_time",),
    ),
    Bug(
        "NOWAIT of LOCK TABLE dropped",
        "postgres/table_locks.py",
        'b" IN ACCESS SHARE MODE NOWAIT")',
        'b" IN ACCESS SHARE MODE")',
        "While the backup waits for one table, sessions that use the others wait for it.",
        (TABLE_LOCKS,),
    ),
    Bug(
        "locks kept while a table is waited for",
        "backup/copy_session.py",
        "LOCK TABLE ONLY %s IN ACCESS SHARE MODE NOWAIT;",
        "LOCK TABLE ONLY %s IN ACCESS SHARE MODE;",
        "A worker waits for an ALTER that waits for the backup, for ever.",
        (f"{CONCURRENCY}::test_alter_waits_before_a_worker_locks",),
    ),
    Bug(
        "budget of locks ignored",
        "postgres/table_locks.py",
        "            self._wait_for(by_oid[oid], self._budget.left)\n",
        "            self._wait_for(by_oid[oid], self._budget.left + 5)\n",
        "A backup waits for a locked table until the next night.",
        (f"{TABLE_LOCKS}::test_the_budget_is_for_all_tables_and_all_attempts",),
    ),
)

SNAPSHOT = (
    Bug(
        "snapshot taken before the locks",
        "postgres/snapshot.py",
        """            locker.lock(wanted)
            snapshot = _export(connection, listed, codec)
""",
        """            snapshot = _export(connection, listed, codec)
            locker.lock(wanted)
""",
        "A table that is truncated in between is backed up empty, without an error.",
        ("tests/postgres/test_snapshot.py::test_rows_that_move_and_leave_an_emptied_table",),
    ),
    Bug(
        "workers without the snapshot",
        "backup/copy_session.py",
        "SET TRANSACTION SNAPSHOT '{snapshot}';\n",
        "",
        "Tables are copied as of different times.",
        (
            f"{CONCURRENCY}::test_transfers_between_tables",
            f"{CONCURRENCY}::test_sliced_tables_as_the_snapshot_saw_them",
        ),
    ),
    Bug(
        "pg_dump without the snapshot",
        "backup/attempt.py",
        'f"--snapshot={self._held.id}", ',
        "",
        "Small tables are copied as of another time than large ones.",
        (f"{CONCURRENCY}::test_transfers_between_tables",),
    ),
    Bug(
        "coordinator without REPEATABLE READ",
        "postgres/snapshot.py",
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        "BEGIN READ ONLY",
        "What the coordinator copies is newer than the rest.",
        ("tests/postgres/test_snapshot.py::test_the_coordinator_sees_what_the_others_see",),
    ),
    Bug(
        "tables not listed again after the locks",
        "postgres/snapshot.py",
        "if tables(connection, codec) == listed and _are_locked(connection, listed):",
        "if _are_locked(connection, listed):",
        "A table that was created or altered meanwhile is missing in the backup.",
        ("tests/postgres/test_snapshot.py::test_a_table_that_is_created_after_the_list",),
    ),
    Bug(
        "connections reach any server",
        "backup/backup.py",
        "endpoint=pinned,",
        "endpoint=endpoint,",
        "Rows of a standby and of its primary are mixed.",
        ("tests/backup/test_retries.py",),
    ),
)

NAMES = (
    Bug(
        "OIDs of the locked tables not checked",
        "postgres/snapshot.py",
        "if tables(connection, codec) == listed and _are_locked(connection, listed):",
        "if tables(connection, codec) == listed:",
        "Another table than the listed one is locked, and the listed one is truncated.",
        ("tests/postgres/test_snapshot.py::test_names_that_change_while_they_are_locked",),
    ),
    Bug(
        "OID of a worker's table not checked",
        "backup/copy_session.py",
        'if line != b"locked %d\\n" % table.oid:',
        "if False:",
        "The rows of another schema's table are in the backup.",
        ("tests/backup/test_copy_session.py",),
    ),
    Bug(
        "OID not checked after a COPY",
        "backup/copy_session.py",
        "        _check_locked(table, self._line())\n        if first is not None:",
        "        self._line()\n        if first is not None:",
        "A schema that is renamed between lock and COPY puts other rows into the backup.",
        ("tests/backup/test_copy_session.py",),
    ),
    Bug(
        "Moved ignored after pg_dump",
        "backup/attempt.py",
        "                moved_names.check(self._held.names, observer, self._source.codec)\n",
        "                pass\n",
        "pg_dump has read another schema's tables, and nobody notices.",
        (f"{MOVING}::test_functions_that_are_dropped_meanwhile",),
    ),
    Bug(
        "names compared instead of row versions",
        "postgres/moved_names.py",
        '(xmin if kind == "schema" else None,))[0] != xmin',
        "(None, name))[1] != name",
        "A schema that was renamed and renamed back is not noticed.",
        ("tests/postgres/test_snapshot.py::test_a_name_has_moved_if_its_row_has_another_version",),
    ),
    Bug(
        "dropped functions not noticed",
        "postgres/moved_names.py",
        '(xmin if kind == "schema" else None,)',
        "(xmin,)",
        "Half of a function that was dropped meanwhile is in the backup.",
        ("tests/postgres/test_snapshot.py::test_a_name_has_moved_if_its_row_has_another_version",),
    ),
    Bug(
        "dropped roles not noticed",
        "backup/attempt.py",
        "            moved_names.check_roles(self._source.connection)\n",
        "",
        "Privileges of a dropped role name its OID, and the restore fails.",
        (f"{MOVING}::test_roles_that_are_dropped_meanwhile",),
    ),
    Bug(
        "search path not emptied",
        "postgres/connection.py",
        '    "search_path": "",\n',
        "",
        "A database's own functions are called instead of PostgreSQL's.",
        ("tests/backup/test_hostile_settings.py::test_settings_of_our_own_sessions",),
    ),
    Bug(
        "row security not refused",
        "postgres/connection.py",
        '    "row_security": "off",\n',
        '    "row_security": "on",\n',
        "Rows that a policy hides are missing in the backup.",
        ("tests/backup/test_hostile_settings.py::test_settings_of_our_own_sessions",),
    ),
    Bug(
        "views in the place of tables readable",
        "postgres/connection.py",
        '    "restrict_nonsystem_relation_kind": "view, foreign-table",\n',
        "",
        "Code of a table's owner runs as the role that backs up.",
        ("tests/backup/test_hostile_settings.py::test_settings_of_every_session_that_reads",),
    ),
    Bug(
        "queries on tables of others planned",
        "backup/trust.py",
        "    return {row[0] for row in rows}\n",
        "    return {row[0] for row in rows} | set(tables)\n",
        "Functions of a table's owner run as the role that backs up.",
        (f"{MOVING}::test_queries_on_tables_of_others_are_not_planned",),
    ),
)

ROWS = (
    Bug(
        "last pages of a table lost",
        "backup/tasks.py",
        "ends: list[int | None] = [*bounds[1:], None]",
        "ends: list[int | None] = [*bounds[1:], bounds[-1] + 1]",
        "Rows at the end of a large table are missing.",
        ("tests/backup/test_tasks.py", "tests/backup/test_slices.py"),
    ),
    Bug(
        "a page between two slices lost",
        "backup/copy_session.py",
        "condition = b\"ctid >= '(%d,0)'\" % first",
        "condition = b\"ctid >= '(%d,0)'\" % (first + 1 if first else 0)",
        "The rows of a page are missing.",
        (f"{CONCURRENCY}::test_sliced_tables_as_the_snapshot_saw_them",),
    ),
    Bug(
        "FROM ONLY dropped",
        "backup/copy_session.py",
        'return b"SELECT %s FROM ONLY %s WHERE %s"',
        'return b"SELECT %s FROM %s WHERE %s"',
        "Rows of tables that inherit from another one are in the backup twice.",
        ("tests/backup/test_copy_session.py",),
    ),
    Bug(
        "rows after slices not compared",
        "backup/slices.py",
        'if rows != waiting[0].rows or not part.endswith(b"\\n"):',
        "if False:",
        "Rows are missing where a REINDEX interrupted the slices of a table.",
        ("tests/backup/test_slices.py",),
    ),
    Bug(
        "coverage of tables not checked",
        "backup/attempt.py",
        "        self._check_coverage(assembler.tables)\n",
        "",
        "A table that nobody dumped is missing without an error.",
        (f"{FAULTS}::test_a_table_that_pg_dump_leaves_out",),
    ),
    Bug(
        "exit status of pg_dump ignored",
        "backup/attempt.py",
        "                child.finish()\n",
        "",
        "A dump that pg_dump did not finish is published.",
        (
            f"{FAULTS}::test_a_program_that_lies",
            f"{FAULTS}::test_a_program_killed_in_the_middle",
        ),
    ),
    Bug(
        "missing closing line of pg_dump accepted",
        "backup/assembly.py",
        "        if not self._complete:\n",
        "        if False:\n",
        "A dump without its indexes and constraints is published.",
        (f"{FAULTS}::test_a_program_that_lies",),
    ),
    Bug(
        "exit status of psql ignored",
        "backup/workers.py",
        "            session.finish()\n",
        "",
        "A session that ended with an error has copied an unknown number of rows.",
        (
            f"{FAULTS}::test_a_program_that_lies",
            f"{FAULTS}::test_a_session_ended_in_the_middle_of_copy",
        ),
    ),
    Bug(
        "roles of another server accepted",
        "backup/backup.py",
        "            if not lost:\n                return roles",
        "            return roles",
        "The roles of another cluster are stored with the backup.",
        ("tests/backup/test_retries.py::test_roles_of_another_server",),
    ),
    Bug(
        "backup not verified before it is published",
        "catalog/publication.py",
        "                verify.verify_source(source, jobs=jobs, progress=progress.advance, side=expected)",
        "                pass",
        "A file that the disk has damaged counts as verified.",
        ("tests/catalog/test_publication.py",),
    ),
    Bug(
        "a failure leaves published files",
        "catalog/publication.py",
        "            with all_or_none(self.store, list(self.uploads)):\n",
        "            with nullcontext():\n",
        "Half of a backup remains under the names of a complete one.",
        (f"{FAULTS}::test_a_system_call_fails",),
    ),
    Bug(
        "a signal interrupts the renames",
        "catalog/publication.py",
        "        with nullcontext() if self.store.remote else interrupts.held():\n            with all",
        "        with nullcontext():\n            with all",
        "A run that was ended reports a failure although its backup is published.",
        ("tests/test_signals.py::test_when_a_file_was_published",),
    ),
)
