#!/bin/sh
# Restores a backup. Arguments are those of `pgkeep restore`, the exit code is pgkeep's.
#
#   ./scripts/db-restore.sh --latest --target-db={{ cookiecutter.postgres_db }}_rescue    beside the present database
#   ./scripts/db-restore.sh --backup=FILE                      where the database is missing
#   ./scripts/db-restore.sh --backup=FILE --verify-only        only check the file
#   ./scripts/db-restore.sh --backup=FILE --drop-existing      replace it; the old one is kept
#
# The role needs CREATEDB and the right to create what is in the backup. Another role than that of
# backup-config.env: POSTGRES_USER=postgres POSTGRES_PASSWORD_FILE=... ./scripts/db-restore.sh ...
set -eu
exec "$(dirname -- "$0")/pgkeep.sh" restore "$@"
