#!/bin/sh
# Restore a backup. All arguments are passed to `pgkeep restore`. Without --backup, --verify-only and
# --drop-existing use the newest backup. The exit code is that of pgkeep.
#
#   ./scripts/db-restore.sh --latest --target-db={{ cookiecutter.postgres_db }}_rescue    into a new database
#   ./scripts/db-restore.sh --backup=FILE                      under the original name, if it is free
#   ./scripts/db-restore.sh --verify-only                      only verify the backup file
#   ./scripts/db-restore.sh --drop-existing                    replace the database; keep the old one;
#                                                              asks for confirmation before
#
# The role needs CREATEDB, and must be a superuser or a member of every role that owns objects in
# the backup. To use another role than the one in backup-config.env:
#
#   POSTGRES_USER=postgres POSTGRES_PASSWORD_FILE=... ./scripts/db-restore.sh ...
set -eu
scripts=$(dirname -- "$(readlink -f -- "$0")") # also if this file is called through a symlink
latest=''
for argument; do
    case $argument in
    --backup | --backup=* | --latest) latest='' && break ;;
    --verify-only | --drop-existing) latest=--latest ;;
    esac
done
exec "$scripts/pgkeep.sh" restore ${latest:+"$latest"} "$@"
