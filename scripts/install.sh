#!/bin/sh
# Installs the programs, the pages, the completions and the units of systemd, and
# prints each file it put in place; or takes away again what it put there.
#   scripts/install.sh [DIRECTORY]
#   scripts/install.sh --uninstall
# DIRECTORY is where the built programs are; without it, this machine's release
# build is looked for. PREFIX (default /usr/local) is where they will run from,
# DESTDIR, for packagers, is put before it. With a PREFIX below $HOME the units are
# those of this user's own manager.
#
# An echod that runs meanwhile is left alone: files are written beside the old ones
# and renamed. A file of /etc that was changed is kept.
set -eu

usage() {
    echo "usage: [DESTDIR=DIR] [PREFIX=DIR] scripts/install.sh [--uninstall | DIRECTORY]" >&2
    exit 64
}

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

[ $# -le 1 ] || usage
prefix=${PREFIX-/usr/local}
prefix=${prefix%/}
destdir=${DESTDIR-}
destdir=${destdir%/}
case $prefix in '' | /*) ;; *) usage ;; esac
share=$prefix/share/echod
# What was put in place, a line each: a directory ends with a slash, and what may be
# changed, in /etc, follows its checksum.
manifest=$destdir$share/manifest
new=$(mktemp)
trap 'rm -f "$new" "$new".*' EXIT

# unchanged CHECKSUM FILE
unchanged() {
    [ "$(cksum <"$2")" = "$1" ]
}

# remove LIST: the files it names, then the directories that are empty now.
remove() {
    while read -r line; do
        case $line in
        */) continue ;;
        /*) path=$line sum= ;;
        *) path=/${line#*/} sum=${line%% /*} ;;
        esac
        [ -e "$destdir$path" ] || continue
        if [ "$sum" ] && ! unchanged "$sum" "$destdir$path"; then
            echo "$destdir$path: kept, it was changed"
            continue
        fi
        rm -f "$destdir$path" || fail "cannot remove $destdir$path: be root"
        echo "removed $destdir$path"
    done <"$1"
    grep '/$' "$1" | sort -r | while read -r dir; do
        rmdir "$destdir$dir" 2>/dev/null || true
    done
}

if [ "${1-}" = --uninstall ]; then
    [ -r "$manifest" ] || fail "no $manifest: nothing was installed there, or not by this script"
    cp "$manifest" "$new"
    echo "$share/manifest" >>"$new"
    remove "$new"
    exit
fi

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
    [ -x "$from/$program" ] || fail "no $program in $from: run 'cargo build --release' first"
done

cannot_write() {
    fail "cannot write to $1: be root, or set PREFIX, as in PREFIX=\$HOME/.local"
}

# make DIRECTORY: which and those above it are noted if they were not there.
make() {
    [ ! -d "$destdir$1" ] || return 0
    [ ! "${1%/*}" ] || make "${1%/*}"
    mkdir -m 755 "$destdir$1" || cannot_write "$destdir$1"
    echo "$1/" >>"$new"
    [ ! -w "$manifest" ] || echo "$1/" >>"$manifest"
}

# put FILE DIRECTORY MODE [NAME [CHECKSUM]]. It is noted before it is there, so
# that what was interrupted can be taken away too.
put() {
    name=${4-${1##*/}}
    make "$2"
    echo "${5:+$5 }$2/$name" >>"$new"
    echo "${5:+$5 }$2/$name" >>"$manifest"
    beside=$destdir$2/.$name.new
    { install -m "$3" "$1" "$beside" && mv -f "$beside" "$destdir$2/$name"; } ||
        cannot_write "$destdir$2"
    echo "$destdir$2/$name"
}

# configure FILE DIRECTORY NAME: as put, unless somebody has changed it.
configure() {
    there=$destdir$2/$3
    if [ -e "$there" ]; then
        was=$(sed -n "s|^\([0-9][0-9 ]*\) $2/$3\$|\1|p" "$new.old" | tail -n 1)
        if [ -z "$was" ] || ! unchanged "$was" "$there"; then
            echo "$there: kept, it was changed"
            [ -z "$was" ] || echo "$was $2/$3" >>"$new"
            return
        fi
    fi
    put "$1" "$2" 644 "$3" "$(cksum <"$1")"
}

[ -z "$destdir" ] || mkdir -p "$destdir" || cannot_write "$destdir"
make "$share"
if [ -e "$manifest" ]; then cp "$manifest" "$new.old"; else : >"$new.old"; fi
cat "$new" >>"$manifest" || cannot_write "$destdir$share"

put "$from/echod" "$prefix/sbin" 755
put "$from/echoc" "$prefix/bin" 755
put "$from/echoload" "$prefix/bin" 755
for page in man/*.[1-8]; do
    put "$page" "$prefix/share/man/man${page##*.}" 644
done
for program in echod echoc echoload; do
    shells=scripts/dist/completions
    put "$shells/$program" "$prefix/share/bash-completion/completions" 644
    put "$shells/_$program" "$prefix/share/zsh/site-functions" 644
    put "$shells/$program.fish" "$prefix/share/fish/vendor_completions.d" 644
done
for licence in LICENSE-MIT LICENSE-APACHE scripts/dist/copyright; do
    put "$licence" "$prefix/share/doc/echod" 644
done
put scripts/dist/echod.toml "$share" 644

# Nothing is enabled and no user is made: that is systemctl's and sysusers' part.
set -- -e "s|^\(ExecStart=-\{0,1\}\)/usr/local/|\1$prefix/|"
case ${HOME:+$prefix/} in
"${HOME-}"/*)
    etc=${XDG_CONFIG_HOME:-$HOME/.config}
    units=${XDG_DATA_HOME:-$HOME/.local/share}/systemd/user
    # A user's manager can neither lock it in nor say who may come.
    set -- "$@" -e '/^# The user of/,/^SystemCallErrorNumber/d' -e '/^After=/d' \
        -e "/^# The service's own/d" -e '/^IPAddress/d' -e '/^# For Unix sock/,/^# logrotate/d' \
        -e 's|/etc/|%E/|' -e 's|/run/|%t/|' -e 's|/var/log/|%L/|' \
        -e 's|^WantedBy=multi-user|WantedBy=default|'
    ;;
*)
    etc=/etc
    units=$prefix/lib/systemd/system
    put scripts/dist/echod.sysusers "$prefix/lib/sysusers.d" 644 echod.conf
    put scripts/dist/no-network.conf "$share" 644
    put scripts/dist/notify-reload.conf "$share" 644
    configure scripts/dist/echod.logrotate /etc/logrotate.d echod
    ;;
esac
configure scripts/dist/echod.toml "$etc" echod.toml
configure scripts/dist/echod.default "$etc/default" echod
for unit in scripts/dist/*.service scripts/dist/*.socket; do
    sed "$@" "$unit" >"$new.unit"
    put "$new.unit" "$units" 644 "${unit##*/}"
done

# What an older version put there and this one does not.
awk '{ path = $0; sub(/^[0-9]+ [0-9]+ /, "", path) }
     FNR == NR { there[path]; next }
     !/\/$/ && !(path in there)' "$new" "$new.old" >"$new.stale"
remove "$new.stale"
{ cat "$new"; grep '/$' "$new.old" || true; } | sort -u >"$new.all"
install -m 644 "$new.all" "$manifest"
