#!/bin/sh
# Runs README's commands in a bare Debian: a new root with make and git, and a clone of HEAD.
#
#   tests/fresh.sh                        make demo and make test, in Debian 12 and in Debian 13
#   tests/fresh.sh 12 demo                only in Debian 12, and without the tests
#   tests/fresh.sh 13 test -- -k browser  only some tests
#   tests/fresh.sh base                   only make the archive of a bare Debian 12, for tests/image.py
#
# Needs root, debootstrap and bubblewrap: in a plain chroot, namespaces of users are refused, which
# drills and browsers use. Prints a table of results and times; the output is in build/fresh.
set -eu
cd "$(dirname "$0")/.."
cache=build/fresh
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
variables="http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY
    PIP_INDEX_URL PIP_PROXY PIP_TRUSTED_HOST PIP_DEFAULT_TIMEOUT NPM_CONFIG_REGISTRY"
certificates="SSL_CERT_FILE PIP_CERT REQUESTS_CA_BUNDLE CURL_CA_BUNDLE GIT_SSL_CAINFO
    NODE_EXTRA_CA_CERTS"

say() {
    echo "fresh: $*" >&2
}

usage() {
    sed -n '2,/^set -eu/s/^# \{0,1\}//p' "$0" >&2
    exit "$1"
}

codename() {
    case $1 in 12) echo bookworm ;; 13) echo trixie ;; esac
}

# The root as debootstrap makes it, in a namespace of its own, so that no mount remains.
base() {
    archive=$cache/$(codename "$1").tar
    [ ! -f "$archive" ] || return 0
    say "making a bare Debian $1"
    made=$(mktemp -d "$cache/base.XXXXXX")
    chmod 755 "$made"
    unshare --mount --pid --fork --kill-child debootstrap --variant=minbase \
        --include=make,git "$(codename "$1")" "$made" "$mirror" >"$cache/debootstrap.log" 2>&1 &
    child=$!
    if ! wait "$child"; then
        tail "$cache/debootstrap.log" "$made/debootstrap/debootstrap.log" >&2 || true
        rm -rf "$made"
        exit 1
    fi
    rm -f "$made"/var/cache/apt/archives/*.deb
    tar -C "$made" -cf "$archive.new" .
    mv "$archive.new" "$archive"
    rm -rf "$made"
}

# Run a command in the root. Everything that it starts ends with it. Of this machine it gets the
# network, and how to reach the package indexes: addresses, and the certificates of a proxy.
inside() {
    root=$1
    shift
    for name in $variables; do
        eval "value=\${$name:-}"
        [ -z "$value" ] || set -- --setenv "$name" "$value" "$@"
    done
    for name in $certificates; do
        eval "value=\${$name:-}"
        [ -z "$value" ] || set -- --ro-bind "$value" "/run/$name.crt" --setenv "$name" "/run/$name.crt" "$@"
    done
    exec bwrap --bind "$root" / --dev /dev --perms 1777 --tmpfs /dev/shm --proc /proc \
        --ro-bind /sys /sys --ro-bind /etc/resolv.conf /etc/resolv.conf --ro-bind /etc/hosts /etc/hosts \
        --unshare-pid --unshare-ipc --unshare-uts --hostname fresh --die-with-parent \
        --clearenv --setenv PATH /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        --setenv HOME /root --chdir /root/pgkeep "$@"
}

# Run a step, show its output, and add a row to the table.
step() {
    release=$1 name=$2
    shift 2
    log=$cache/debian-$release-$name.log
    say "Debian $release: $name"
    began=$(date +%s)
    : >"$log" # before tail looks for it
    inside "$run/$release" "$@" </dev/null >"$log" 2>&1 &
    child=$!
    tail -n +1 -f --pid="$child" "$log" &
    result=ok
    wait "$child" || { result="failed, exit $?" && failed=1; }
    child=''
    counts=$(sed -n 's/^=* *\([0-9].* in [0-9.]*s\).*/, \1/p' "$log" | tail -1)
    printf '| %-9s | %-5s | %4d s | %s |\n' "Debian $release" "$name" \
        $(($(date +%s) - began)) "$result$counts" >>"$run/table"
}

fresh() {
    release=$1
    base "$release"
    mkdir -m 755 "$run/$release"
    tar -C "$run/$release" -xf "$cache/$(codename "$release").tar"
    git clone --quiet --no-local . "$run/$release/root/pgkeep"
    for name in $steps; do
        case $name in
        demo) step "$release" demo make demo ;;
        test) step "$release" test make test PYTEST_ARGS="$pytest_args" ;;
        esac
    done
    rm -rf "${run:?}/$release"
}

main() {
    releases='' steps='' pytest_args=''
    while [ $# -gt 0 ]; do
        case $1 in
        12 | 13) releases="$releases $1" ;;
        demo | test) steps="$steps $1" ;;
        base) steps=base ;;
        --)
            shift
            for argument; do pytest_args="$pytest_args '$argument'"; done
            break
            ;;
        -h | --help) usage 0 ;;
        *) usage 2 ;;
        esac
        shift
    done
    releases=${releases:-12 13} steps=${steps:-demo test} failed=0

    [ "$(id -u)" = 0 ] || { say "must run as root" && exit 1; }
    tests/setup.sh fresh
    mkdir -p "$cache"
    run=$(mktemp -d "$cache/run.XXXXXX")
    chmod 755 "$run"
    child=''
    trap 'kill $child 2>/dev/null || true; wait; rm -rf "$run" "$cache"/base.*' EXIT
    trap 'exit 130' INT HUP TERM
    if [ "$steps" = base ]; then base 12 && exit; fi
    for release in $releases; do fresh "$release"; done
    printf '\n| system    | step  |   time | result |\n|---|---|---|---|\n'
    cat "$run/table"
    exit "$failed"
}

main "$@"
