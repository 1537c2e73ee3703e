#!/bin/sh
# Restore a backup. All arguments are passed to `pgkeep restore`. The exit code is that of pgkeep.
#
#   ./scripts/db-restore.sh --latest --target-db={{ cookiecutter.postgres_db }}_rescue    into a new database
#   ./scripts/db-restore.sh --backup=FILE                      under the original name, if it is free
#   ./scripts/db-restore.sh --backup=FILE --verify-only        only verify the backup file
#   ./scripts/db-restore.sh --backup=FILE --drop-existing      replace the database; keep the old one
#
# The role needs CREATEDB, and must be a superuser or a member of every role that owns objects in
# the backup. To use another role than the one in backup-config.env:
#
#   POSTGRES_USER=postgres POSTGRES_PASSWORD_FILE=... ./scripts/db-restore.sh ...
set -eu
exec "$(dirname -- "$0")/pgkeep.sh" restore "$@"
