#!/bin/sh
# Installs echod, echoload and the pages, and prints each file it put in place.
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

root=${DESTDIR-}${PREFIX-/usr/local}

# put FILE DIRECTORY MODE
put() {
    { install -d "$2" && install -m "$3" "$1" "$2/"; } || {
        echo "install.sh: cannot write to $2: be root, or set PREFIX, as in PREFIX=\$HOME/.local" >&2
        exit 1
    }
    echo "$2/${1##*/}"
}

put "$from/echod" "$root/sbin" 755
put "$from/echoc" "$root/bin" 755
put "$from/echoload" "$root/bin" 755
for page in man/*.[1-8]; do
    put "$page" "$root/share/man/man${page##*.}" 644
done
