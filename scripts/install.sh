#!/bin/sh
# Installs the programs, the pages and the units of systemd, and prints each file
# it put in place.
#   scripts/install.sh [DIRECTORY]
# DIRECTORY is where the built programs are; without it, this machine's release
# build is looked for. PREFIX (default /usr/local) is where they will run from,
# DESTDIR, for packagers, is put before it.
set -eu

usage() {
    echo "usage: [DESTDIR=DIR] [PREFIX=DIR] scripts/install.sh [DIRECTORY]" >&2
    exit 64
}

[ $# -le 1 ] || usage
case ${1-} in -*) usage ;; esac
# Before the cd: it is the caller's.
from=${1:+$(CDPATH='' cd -- "$1" && pwd)} || exit 1
cd "$(dirname "$0")/.."

if [ -z "$from" ]; then
    target=${CARGO_TARGET_DIR:-target}
    # Root may have no rustc: then any triple's build will do.
    host=$(rustc -vV 2>/dev/null | sed -n 's/^host: //p') || host=
    if [ -n "$host" ]; then
        set -- "$target/$host/release" "$target/release"
    else
        set -- "$target"/*/release "$target/release"
    fi
    from=$1
    for dir; do
        [ ! -x "$dir/echod" ] || { from=$dir; break; }
    done
fi
for program in echod echoc echoload; do
    if [ ! -x "$from/$program" ]; then
        echo "install.sh: no $program in $from: run 'cargo build --release' first" >&2
        exit 1
    fi
done

prefix=${PREFIX-/usr/local}
root=${DESTDIR-}$prefix

# put FILE DIRECTORY MODE [NAME]
put() {
    { install -d "$2" && install -m "$3" "$1" "$2/${4-}"; } || {
        echo "install.sh: cannot write to $2: be root, or set PREFIX, as in PREFIX=\$HOME/.local" >&2
        exit 1
    }
    echo "$2/${4-${1##*/}}"
}

put "$from/echod" "$root/sbin" 755
put "$from/echoc" "$root/bin" 755
put "$from/echoload" "$root/bin" 755
for page in man/*.[1-8]; do
    put "$page" "$root/share/man/man${page##*.}" 644
done

# Nothing is enabled and no user is made: that is systemctl's and sysusers' part.
unit=$(mktemp)
trap 'rm -f "$unit"' EXIT
sed "s|^ExecStart=/usr/local/|ExecStart=$prefix/|" scripts/dist/echod.service >"$unit"
put "$unit" "$root/lib/systemd/system" 644 echod.service
put scripts/dist/echod.socket "$root/lib/systemd/system" 644
put scripts/dist/no-network.conf "$root/share/echod" 644
put scripts/dist/echod.toml "$root/share/echod" 644
put scripts/dist/echod.sysusers "$root/lib/sysusers.d" 644 echod.conf
