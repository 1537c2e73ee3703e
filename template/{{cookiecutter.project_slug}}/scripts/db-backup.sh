#!/bin/sh
# Back up the database. All arguments are passed to `pgkeep backup`. The exit code is that of
# pgkeep.
#
#   ./scripts/db-backup.sh                  manual backup; kept until you remove it
#   ./scripts/db-backup.sh --type=weekly    verified backup; removed by retention
#   ./scripts/db-backup.sh --type=auto      choose daily, weekly or monthly; use this in cron
#   ./scripts/db-backup.sh --verify         verify the backup file before it is published
#   ./scripts/db-backup.sh --schema-only    definitions without rows
set -eu
exec "$(dirname -- "$0")/pgkeep.sh" backup "$@"
