#!/bin/bash
# Boots a Debian with systemd, installs the package in it and tries what the units, the
# package and the pages promise, in a network of its own; prints a table, and ends with
# status 1 if a row of it failed.
#   scripts/dist/boot-test.sh [PACKAGE.deb]
# Without PACKAGE one is made. Needs root, debootstrap and systemd-nspawn, and the first
# time a mirror of Debian; says what is missing and ends with 77. ECHOD_BOOT_SUITE
# (default bookworm) is kept unchanged below /var/cache/echod-boot.
set -euo pipefail

case "$#:${1-}" in
0: | 1:[!-]*) ;;
*) echo "usage: scripts/dist/boot-test.sh [PACKAGE.deb]" >&2; exit 64 ;;
esac
deb=${1:+$(realpath "$1")}
cd "$(dirname "$0")/../.."

skip() { echo "skipped: $*"; exit 77; }
[[ $EUID = 0 ]] || skip "needs root"
for tool in debootstrap systemd-nspawn; do
    command -v $tool >/dev/null || skip "$tool is not installed"
done
if [[ -z $deb ]]; then
    cargo deb --version >/dev/null 2>&1 || skip "cargo-deb is not installed"
    deb=$(scripts/dist/deb.sh | grep '\.deb$')
fi

suite=${ECHOD_BOOT_SUITE:-bookworm}
tree=/var/cache/echod-boot/$suite
if [[ ! -d $tree ]]; then
    mkdir -p "${tree%/*}"
    timeout 300 debootstrap --variant=minbase "$suite" "$tree.new" >"$tree.log" 2>&1 \
        --include=systemd,systemd-sysv,dbus,libpam-systemd,logrotate,procps,iproute2,rsyslog,man-db ||
        { rm -rf "$tree.new"; skip "debootstrap: $(tail -n 1 "$tree.log")"; }
    mv "$tree.new" "$tree"
fi

# The tree itself stays as it is: what is written goes to a layer that is thrown away.
layer=$(mktemp -d "${tree%/*}/layer.XXXXXX")
trap 'umount "$layer/root" 2>/dev/null || true; rm -rf "$layer"' EXIT
mkdir "$layer"/{up,work,root}
mount -t overlay overlay "$layer/root" \
    -o "lowerdir=$tree,upperdir=$layer/up,workdir=$layer/work" || skip "no overlay file system"
inside=$layer/root/boot-test
mkdir -p "$inside/tree/scripts" "$inside/tree/bin"
cp "$deb" "$inside/echod.deb"
cp scripts/dist/boot-inside.sh "$inside/"
# What a tarball has, with the programs of the package.
dpkg-deb --fsys-tarfile "$deb" | tar x -C "$inside/tree/bin" --strip-components=3 \
    ./usr/sbin/echod ./usr/bin/echoc ./usr/bin/echoload
cp -R man LICENSE-* "$inside/tree/"
cp -R scripts/install.sh scripts/dist "$inside/tree/scripts/"
cargo install --quiet --path . --locked --root "$inside/cargo" --target-dir "${CARGO_TARGET_DIR:-target}" 2>"$layer/log" ||
    { cat "$layer/log" >&2; exit 1; }
cat >"$layer/root/etc/systemd/system/boot-test.service" <<'UNIT'
[Unit]
After=rsyslog.service dbus.service systemd-logind.service
[Service]
Type=oneshot
ExecStart=/bin/bash /boot-test/boot-inside.sh
ExecStopPost=/bin/systemctl --no-block poweroff
UNIT
ln -s ../boot-test.service "$layer/root/etc/systemd/system/multi-user.target.wants/"

timeout --kill-after=10 270 systemd-nspawn --quiet --directory="$layer/root" --machine=echod-boot-test \
    --private-network --register=no --keep-unit --boot </dev/null >"$layer/console" 2>&1 || true
cat "$inside/table" 2>/dev/null || tail -n 30 "$layer/console"
status=$(cat "$inside/status" 2>/dev/null) || { echo "boot-test.sh: it did not come to an end" >&2; exit 1; }
exit "$status"
