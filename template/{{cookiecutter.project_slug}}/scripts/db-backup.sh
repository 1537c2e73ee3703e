#!/bin/sh
# Backs up the database. Arguments are those of `pgkeep backup`, the exit code is pgkeep's.
#
#   ./scripts/db-backup.sh                  now; kept until you remove it
#   ./scripts/db-backup.sh --type=weekly    verified, kept as long as its tier
#   ./scripts/db-backup.sh --type=auto      the one line for cron
#   ./scripts/db-backup.sh --verify         read the file back before it is published
#   ./scripts/db-backup.sh --schema-only    definitions without rows
set -eu
exec "$(dirname -- "$0")/pgkeep.sh" backup "$@"
