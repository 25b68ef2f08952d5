#!/bin/sh
# Makes the Debian package, target/debian/echod_VERSION_ARCH.deb, of a release build,
# and prints its name.
#   scripts/dist/deb.sh [DIRECTORY]
# DIRECTORY is where the built programs are; without it, they are built. Needs
# cargo-deb; where lintian is, it has the last word.
set -eu

case "$#:${1-}" in
0: | 1:[!-]*) ;;
*) echo "usage: scripts/dist/deb.sh [DIRECTORY]" >&2; exit 64 ;;
esac
from=${1:+$(CDPATH='' cd -- "$1" && pwd)} || exit 1
cd "$(dirname "$0")/../.."
cargo deb --version >/dev/null 2>&1 || {
    echo "deb.sh: no cargo-deb: run 'cargo install cargo-deb'" >&2
    exit 1
}
if [ -z "$from" ]; then
    cargo build --release --quiet --bins
    host=$(rustc -vV | sed -n 's/^host: //p')
    from=${CARGO_TARGET_DIR:-target}/$host/release
fi

# The tree of install.sh, and what Debian has elsewhere or otherwise.
tree=target/deb
rm -rf "$tree"
DESTDIR=$tree PREFIX=/usr scripts/install.sh "$from" >/dev/null
rm "$tree/usr/share/echod/manifest"
strip --strip-all --remove-section=.comment "$tree"/usr/sbin/* "$tree"/usr/bin/*
mv "$tree/usr/share/zsh/site-functions" "$tree/usr/share/zsh/vendor-completions"
install -Dm 644 scripts/dist/debian/lintian-overrides "$tree/usr/share/lintian/overrides/echod"
gzip -9n <CHANGELOG.md >"$tree/usr/share/doc/echod/changelog.gz"
# Debian's changelog tells of the packaging; the program's own is beside it.
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
maintainer=$(sed -n 's/^maintainer = "\(.*\)"/\1/p' Cargo.toml)
day=$(sed -n "s/^## \[$version\] - //p" CHANGELOG.md)
SOURCE_DATE_EPOCH=$(date -u -d "${day:-today 0:00}" +%s)
export SOURCE_DATE_EPOCH
cat >"$tree/changelog" <<TEXT
echod ($version-1) unstable; urgency=medium

  * Version $version; changelog.gz says what is new.

 -- $maintainer  $(LC_ALL=C date -u -R -d "@$SOURCE_DATE_EPOCH")
TEXT

deb=$(cargo deb --quiet --no-build --no-strip)
echo "$deb"
if command -v lintian >/dev/null; then
    lintian --allow-root --fail-on error,warning --tag-display-limit 0 "$deb"
else
    echo "skipped: lintian is not installed" >&2
fi
