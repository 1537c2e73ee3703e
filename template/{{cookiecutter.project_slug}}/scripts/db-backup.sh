#!/bin/sh
# Back up the database. All arguments are passed to `pgkeep backup`. Without --type, the backup is
# daily. The exit code is that of pgkeep.
#
#   ./scripts/db-backup.sh                  daily backup, verified; removed by retention
#   ./scripts/db-backup.sh --type=weekly    weekly backup; also: monthly
#   ./scripts/db-backup.sh --type=auto      choose daily, weekly or monthly; use this in cron
#   ./scripts/db-backup.sh --type=manual    kept until you remove it; verified only with --verify
#   ./scripts/db-backup.sh --verify         verify the backup file before it is published (default)
#   ./scripts/db-backup.sh --schema-only    definitions without rows
set -eu
scripts=$(dirname -- "$(readlink -f -- "$0")") # also if this file is called through a symlink
type=--type=daily
for argument; do
    case $argument in --type | --type=*) type='' ;; esac
done
exec "$scripts/pgkeep.sh" backup ${type:+"$type"} "$@"
