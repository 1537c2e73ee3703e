"""Bugs of monitoring and of exit codes."""

from .bug import Bug

STATUS = "tests/monitor/test_status.py"
METRICS = "tests/monitor/test_metrics.py"
NAGIOS = "tests/monitor/test_nagios.py"
PITR = "tests/monitor/test_point_in_time.py"
RUN = "tests/backup/test_run.py"

MONITOR = (
    Bug(
        "incomplete backups count as the newest",
        "monitor/status.py",
        "        if not copy.missing and copy.manifest.full\n",
        "        if copy.manifest.full\n",
        "A backup whose file is gone is shown as last night's.",
        (f"{STATUS}::test_the_newest_backup_that_can_be_restored_is_judged", STATUS),
    ),
    Bug(
        "backups of definitions count as the newest",
        "monitor/status.py",
        "        if not copy.missing and copy.manifest.full\n",
        "        if not copy.missing\n",
        "A backup without rows is shown as last night's.",
        (f"{STATUS}::test_the_newest_backup_that_can_be_restored_is_judged", STATUS),
    ),
    Bug(
        "age of the backup not compared",
        "monitor/status.py",
        '    if age > goals.max_age:\n        return [f"its newest',
        '    if False:\n        return [f"its newest',
        "No backup is made for weeks, and the state is ok.",
        (STATUS,),
    ),
    Bug(
        "age computed from the end of the run",
        "monitor/status.py",
        "(self.now - newest.as_of).total_seconds()",
        "(self.now - newest.finished).total_seconds()",
        "Data of a standby that is hours behind counts as new.",
        (f"{STATUS}::test_a_standby_that_was_behind_makes_old_backups",),
    ),
    Bug(
        "backups from the future count",
        "monitor/overview.py",
        "if max(manifest.taken, manifest.snapshot, manifest.finished) <= latest",
        "if True",
        "A backup with a wrong date hides that no others are made.",
        (f"{STATUS}::test_the_future_is_no_backup",),
    ),
    Bug(
        "failed drill is no problem",
        "monitor/status.py",
        "    if last is not None and not last.passed:\n        problems",
        "    if False:\n        problems",
        "A backup that could not be restored is shown as ok.",
        (f"{STATUS}::test_drills_are_judged_only_where_a_goal_is_set", STATUS),
    ),
    Bug(
        "pending copies are no problem",
        "monitor/status.py",
        '    if age > goals.max_age:\n        return [f"the copy',
        '    if False:\n        return [f"the copy',
        "No copy has reached the bucket for weeks, and the state is ok.",
        (STATUS,),
    ),
    Bug(
        "unreadable stores shown as ok",
        "monitor/status.py",
        "        if not self.readable:\n            return list(self.problems)",
        "        if not self.readable:\n            return []",
        "A bucket that does not answer is shown as ok.",
        (STATUS, NAGIOS),
    ),
    Bug(
        "unknown reported as ok to Nagios",
        "monitor/nagios.py",
        "    if not state.readable:\n        return UNKNOWN",
        "    if not state.readable:\n        return OK",
        "A monitoring system shows green for what nobody knows.",
        (NAGIOS,),
    ),
    Bug(
        "failed run counts as success",
        "monitor/attempts.py",
        "        return exit_code != 0\n",
        "        return False\n",
        "Runs that fail every night are not shown.",
        (f"{STATUS}::test_a_failure_has_a_beginning_and_an_end", STATUS),
    ),
    Bug(
        "exit code of a failed database not in the metrics",
        "monitor/metrics.py",
        "    codes |= {failure.database: failure.exit_code for failure in report.failed}\n",
        "    codes |= {failure.database: 0 for failure in report.failed}\n",
        "An alert on failed runs never fires.",
        (METRICS,),
    ),
    Bug(
        "incomplete backups in the metrics",
        "monitor/metrics.py",
        "        if not backup.missing:\n            series.append(backup.manifest)",
        "        if True:\n            series.append(backup.manifest)",
        "An alert on old backups does not fire although files are gone.",
        (METRICS,),
    ),
    Bug(
        "receiver that does not run shown as running",
        "monitor/point_in_time.py",
        "return (now - stream.written_at).total_seconds() <= FRESH",
        "return True",
        "No WAL is received, and the state is ok.",
        (PITR,),
    ),
    Bug(
        "lost slot is no problem",
        "monitor/point_in_time.py",
        'elif slot.status == "lost":',
        "elif False:",
        "WAL is missing, and the state is ok.",
        (PITR,),
    ),
    Bug(
        "gaps are no problem",
        "monitor/point_in_time.py",
        "return [gap for gap in state.gaps if gap.until is None or gap.until > begin]",
        "return []",
        "Seconds that cannot be restored are shown as ok.",
        (PITR,),
    ),
    Bug(
        "success reported for a failed run",
        "cli/notifier.py",
        "        if error is None:\n            notify.ping(",
        "        if True:\n            notify.ping(",
        "A dead man's switch never fires.",
        ("tests/monitor/test_notify.py",),
    ),
)

EXIT_CODES = (
    Bug(
        "partial run ends with 0",
        "backup/run_report.py",
        "        if failed:\n            names",
        "        if False:\n            names",
        "Cron reports nothing although databases have no backup.",
        (f"{RUN}::test_one_broken_database_stops_no_other",),
    ),
    Bug(
        "run without any backup ends with 0",
        "backup/run_report.py",
        "        if len(failed) == 1 and not backups:\n            return failed[0].as_error()",
        "        if len(failed) == 1 and not backups:\n            return None",
        "Cron reports nothing although no backup exists.",
        (
            "tests/cli/test_cli.py::test_a_server_that_is_down_is_exit_code_3",
            "tests/backup/test_faults.py::test_a_program_that_lies",
        ),
    ),
    Bug(
        "refused retention ends with 0",
        "backup/run_report.py",
        "(*self.copies_missed, *self.retention)",
        "(*self.copies_missed,)",
        "Nobody learns that old backups are not removed any more.",
        (f"{RUN}::test_a_massacre_is_refused",),
    ),
    Bug(
        "required copy that failed ends with 0",
        "backup/run_report.py",
        "(*self.copies_missed, *self.retention)",
        "(*self.retention,)",
        "Nobody learns that no copy reaches the bucket.",
        (
            "tests/catalog/test_offsite.py::test_any_error_of_a_bucket_leaves_the_copy_pending",
            "tests/catalog/test_offsite.py::test_a_failed_copy_is_pending_and_uploaded_later",
            "tests/test_config.py::test_each_target_says_whether_its_own_copies_are_required",
        ),
    ),
    Bug(
        "verify of several files ends with 0",
        "cli/verify.py",
        "    if failed:\n        worst",
        "    if False:\n        worst",
        "A script takes damaged backups for good ones.",
        ("tests/cli/test_verify.py",),
    ),
    Bug(
        "key check that fails ends with 0",
        "cli/key_check.py",
        "    if failed:\n        error",
        "    if False:\n        error",
        "A script takes a wrong key for the right one.",
        ("tests/crypt/test_keys.py::test_which_backups_a_key_decrypts",),
    ),
    Bug(
        "rekey that fails ends with 0",
        "cli/rekey.py",
        "    if (error := _error(outcomes)) is not None:\n        raise error",
        "    if (error := _error(outcomes)) is not None:\n        return",
        "A script takes backups of a stolen key for encrypted again.",
        (
            "tests/crypt/test_rekey.py::test_what_is_refused",
            "tests/crypt/test_rekey.py::test_a_damaged_backup_stays",
        ),
    ),
)
