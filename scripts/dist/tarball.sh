#!/bin/sh
# Makes target/tarball/echod-VERSION-TRIPLE.tar.gz, of static programs and what
# scripts/install.sh needs to install them, with its checksum beside it, and prints
# both. Of musl where Rust has it, else of glibc. The same commit, compiler and
# libraries give the same bytes, wherever it is built.
#   scripts/dist/tarball.sh [--check]
# With --check it builds the commit in two folders, and ends with status 1 unless both
# are alike to the bit, and what is inside installs, runs and is uninstalled.
set -eu

check=
case "$#:${1-}" in
0:) ;;
1:--check) check=yes ;;
*) echo "usage: scripts/dist/tarball.sh [--check]" >&2; exit 64 ;;
esac
cd "$(dirname "$0")/../.."

fail() {
    echo "tarball.sh: $*" >&2
    exit 1
}

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
host=$(rustc -vV | sed -n 's/^host: //p')
triple=${host%-gnu}-musl
[ -d "$(rustc --print target-libdir --target "$triple")" ] || triple=$host
name=echod-$version-$triple

if [ "$check" ]; then
    [ -z "$(git status --porcelain)" ] || fail "what is not committed is not in it"
    tmp=$(mktemp -d)
    trap 'rm -rf "$tmp"' EXIT
    for folder in one another/and/deeper; do
        mkdir -p "$tmp/$folder"
        git archive HEAD | tar x -C "$tmp/$folder"
        # Where there is no repository to ask for the day.
        git log -1 --format=%ct >"$tmp/$folder/.day"
        env -u CARGO_TARGET_DIR "$tmp/$folder/scripts/dist/tarball.sh"
    done
    mkdir -p target/tarball
    cp "$tmp/one/target/tarball/$name".* target/tarball/
    cmp "$tmp/one/target/tarball/$name.tar.gz" \
        "$tmp/another/and/deeper/target/tarball/$name.tar.gz" || fail "the two differ"
    (cd target/tarball && sha256sum --quiet -c "$name.tar.gz.sha256")
    tar xz -C "$tmp" -f "target/tarball/$name.tar.gz"
    DESTDIR=$tmp/root "$tmp/$name/scripts/install.sh" "$tmp/$name/bin" >/dev/null
    # --allow-root: nobody may not enter where a temporary directory is.
    addr=$("$tmp/root/usr/local/sbin/echod" --daemon --allow-root --log-target "$tmp/log" \
        --pidfile "$tmp/pid" -l tcp:127.0.0.1:0 --ready-fd 1)
    "$tmp/root/usr/local/bin/echoc" --check "$addr"
    kill "$(cat "$tmp/pid")"
    head -n 1 "$tmp/log"
    DESTDIR=$tmp/root "$tmp/$name/scripts/install.sh" --uninstall >/dev/null
    [ -z "$(ls -A "$tmp/root")" ] || fail "an uninstall leaves: $(ls "$tmp/root")"
    echo "tarball.sh: two builds in two folders are alike, and install"
    exit
fi

SOURCE_DATE_EPOCH=$(cat .day 2>/dev/null || git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
# Where the crates' sources are is in messages of theirs. These flags are added to
# those of .cargo/config.toml, which has the target's own.
crates=${CARGO_HOME:-$HOME/.cargo}/registry/src
cargo build --release --quiet --locked --bins --target "$triple" \
    --config "target.$triple.rustflags = ['--remap-path-prefix=$crates=/crates']"

out=target/tarball
rm -rf "${out:?}/$name"
mkdir -p "$out/$name/bin" "$out/$name/scripts"
for program in echod echoc echoload; do
    built=${CARGO_TARGET_DIR:-target}/$triple/release/$program
    install -m 755 "$built" "$out/$name/bin/"
    strip --strip-all --remove-section=.comment "$out/$name/bin/$program"
    # Static: nothing is asked of the machine that it comes to.
    if readelf -l "$out/$name/bin/$program" | grep -q INTERP; then fail "$program is dynamic"; fi
done
cp -R README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE man "$out/$name/"
cp -R scripts/install.sh scripts/dist "$out/$name/scripts/"
tar c -C "$out" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 \
    --numeric-owner --mode=u+rw,go+r-w,a+X "$name" | gzip -9n >"$out/$name.tar.gz"
rm -r "${out:?}/$name"
(cd "$out" && sha256sum "$name.tar.gz" | tee "$name.tar.gz.sha256")
ls -l "$out/$name.tar.gz"
