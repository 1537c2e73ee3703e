#!/bin/sh
# Run pgkeep with the settings in scripts/backup-config.env, from any current directory:
#
#   ./scripts/pgkeep.sh list
#   ./scripts/pgkeep.sh doctor
#
# The file contains NAME=value lines. This script parses them and never executes them. Environment
# variables override the file. Set DB_BACKUP_ENV to use another file.
set -eu

self=$(readlink -f -- "$0") # also if this file is called through a symlink
project=$(CDPATH='' cd -- "$(dirname -- "$self")/.." && pwd)
settings=${DB_BACKUP_ENV:-$project/scripts/backup-config.env}

fail() {
    echo "error: $1" >&2
    exit 2
}

# Whether the environment already sets this variable.
is_given() {
    case " $given " in *" $1 "*) return 0 ;; esac
    return 1
}

# Remove one pair of quotes around the value, as systemd and Compose do.
unquoted() {
    case $1 in
    \"*\") value=${1#\"} && value=${value%\"} ;;
    \'*\') value=${1#\'} && value=${value%\'} ;;
    *) value=$1 ;;
    esac
}

read_settings() {
    number=0
    while IFS= read -r line || [ -n "$line" ]; do
        number=$((number + 1))
        line=${line%"$carriage_return"} # files edited on Windows
        case $line in '' | '#'*) continue ;; esac
        name=${line%%=*}
        case $name in
        "$line" | *[!A-Z0-9_]*) fail "$settings, line $number: expected NAME=value" ;;
        BACKUP_* | POSTGRES_* | PG* | AWS_* | DATABASE_URL | DATABASE_URL_FILE) ;;
        SSL_CERT_FILE | TZ) ;;
        *) fail "$settings, line $number: $name is not a setting of pgkeep" ;;
        esac
        # pgkeep rejects a variable that is set as both NAME and NAME_FILE. So if the environment
        # sets either form, ignore both forms in the file.
        if is_given "${name%_FILE}" || is_given "${name%_FILE}_FILE"; then continue; fi
        unquoted "${line#*=}"
        export "$name=$value"
    done <"$settings"
}

carriage_return=$(printf '\r')
given=$(env | sed -n 's/^\([A-Z][A-Z0-9_]*\)=.*/\1/p' | tr '\n' ' ')
if [ -e "$settings" ]; then
    read_settings
elif [ -n "${DB_BACKUP_ENV:-}" ]; then
    fail "DB_BACKUP_ENV: file $settings does not exist"
fi

# A relative BACKUP_DIR is relative to the project, not to the current directory.
case ${BACKUP_DIR:-} in
/* | s3://*) ;;
'') [ -n "${BACKUP_DIR_FILE:-}${PGKEEP_CONFIG:-}" ] || export BACKUP_DIR="$project/backups" ;;
*) export BACKUP_DIR="$project/${BACKUP_DIR#./}" ;;
esac

# backups/FILE is relative to the project, too, unless the current directory has such a file.
from_project() {
    if [ -e "$1" ] || [ -e "$1.sql.gz" ]; then printf '%s\n' "$1"; else printf '%s\n' "$project/$1"; fi
}

run() {
    program=$1 && shift
    for argument; do
        shift
        case $argument in
        --backup=backups/*) argument=--backup=$(from_project "${argument#--backup=}") ;;
        backups/*) argument=$(from_project "$argument") ;;
        esac
        set -- "$@" "$argument"
    done
    exec "$program" "$@"
}

for program in "$(command -v pgkeep || true)" "$project/.venv/bin/pgkeep" "$project/venv/bin/pgkeep"; do
    if [ -x "$program" ]; then run "$program" "$@"; fi
done
if command -v docker >/dev/null; then
    cd "$project" # the container sees backups/ under the same relative path
{% if cookiecutter.include_encryption == 'yes' %}
    service=backup
    # Only the service "restore" has the private key. A backup never gets it.
    if [ -e identity.txt ]; then service=restore; fi
    for argument; do
        if [ "$argument" = backup ]; then service=backup; fi
    done
    if [ -t 0 ]; then exec {{ cookiecutter.__compose }} run --rm "$service" "$@"; fi
    exec {{ cookiecutter.__compose }} run --rm -T "$service" "$@"
{% else %}
    if [ -t 0 ]; then exec {{ cookiecutter.__compose }} run --rm backup "$@"; fi
    exec {{ cookiecutter.__compose }} run --rm -T backup "$@"
{% endif %}
fi
fail "pgkeep was not found on PATH or in $project/.venv, and docker is not installed"
