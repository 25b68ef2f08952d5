#!/bin/sh
# Writes scripts/dist/copyright: what the programs consist of, since they are linked
# statically, and under which licences, in the form that Debian asks for. Whose a crate
# is stands in its own licence file, or else among its authors.
#   scripts/dist/copyright.sh [--check]
# With --check it writes nothing, and ends with status 1 if the file is stale. Needs
# jq and the sources of the crates, which any build has fetched.
set -eu

check=
case "$#:${1-}" in
0:) ;;
1:--check) check=yes ;;
*) echo "usage: scripts/dist/copyright.sh [--check]" >&2; exit 64 ;;
esac
cd "$(dirname "$0")/../.."

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# holders DIRECTORY AUTHORS
holders() {
    cat /dev/null "$1"/LICEN[CS]E* "$1"/COPYRIGHT* 2>/dev/null |
        sed -n 's/^[ \t]*Copyright \(([cC])\|©\|[0-9]\)/\1/p' | sed 's/^([cC]) *//; s/^© *//; s/[ \t.]*$//' |
        grep -v '\[yyyy\]' | sort -u >"$tmp/holders"
    [ -s "$tmp/holders" ] || echo "${2:-its contributors}" >"$tmp/holders"
    sed '1s/^/Copyright: /; 2,$s/^/ /' "$tmp/holders"
}

crates() {
    # Of the architectures it was built for.
    x86=x86_64-unknown-linux-gnu arm=aarch64-unknown-linux-gnu
    cargo metadata --format-version 1 --locked --filter-platform $x86 --filter-platform $arm |
        jq -r '.packages[] | [.name, .version, .manifest_path, .license, (.authors | join(", "))] | @tsv' \
            >"$tmp/packages"
    for target in $x86 $arm; do
        cargo tree --locked -e normal,no-proc-macro --prefix none --target "$target" -f '{p}'
    done | awk '$1 != "echod" { sub(/^v/, "", $2); print $1 "\t" $2 }' | sort -u >"$tmp/linked"
    tab=$(printf '\t')
    while IFS=$tab read -r name version; do
        grep "^$name$tab$version$tab" "$tmp/packages" | {
            IFS=$tab read -r _ _ manifest licence authors
            echo
            echo "Files: $name-$version/*"
            holders "${manifest%/*}" "$authors"
            echo "License: $licence" |
                sed 's|/| or |; s/ OR / or /g; s/ AND / and /g; s/ WITH / with /g; s/MIT/Expat/'
        }
    done <"$tmp/linked"
}

{
    cat <<'TEXT'
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: echod
Comment: The programs are linked statically. After echod itself come the crates that
 are linked into one of them or more, each with its version, the standard library of
 Rust, and the two libraries of C. Where there is a choice of licences, it is the
 reader's.

Files: *
TEXT
    sed -n 's/^Copyright (c) /Copyright: /p' LICENSE-MIT
    echo "License: Expat or Apache-2.0"
    crates
    cat <<'TEXT'

Files: rust-std/*
Copyright: The Rust Project Developers
License: Expat or Apache-2.0
Comment: With crates of its own under the same licences, and compiler-builtins, which
 is also under Apache-2.0 with LLVM-exception and the Expat licence of LLVM.

Files: glibc/*
Copyright: Free Software Foundation, Inc.
License: LGPL-2.1+
Comment: Not where the programs are built with musl. Whoever wants them with a glibc of
 their own links echod again: its source, and how to build it, are published with it.

Files: musl/*
Copyright: 2005-2020 Rich Felker, et al.
License: Expat
Comment: Only where the programs are built with it.

Files: libgcc/*
Copyright: Free Software Foundation, Inc.
License: GPL-3+ with GCC-exception

License: Expat
TEXT
    sed '1,/^Copyright/d; /./,$!d' LICENSE-MIT | sed 's/^$/./; s/^/ /'
    cat <<'TEXT'

License: Apache-2.0
 On Debian systems, the full text is in /usr/share/common-licenses/Apache-2.0.
 Elsewhere it is installed beside this file, as LICENSE-APACHE.

License: Apache-2.0 with LLVM-exception
 Apache-2.0, and as an exception: if, as a result of your compiling your source code,
 portions of this Software are embedded into an Object form of such source code, you
 may redistribute such embedded portions in such Object form without complying with
 the conditions of Sections 4(a), 4(b) and 4(d) of the License.

License: BSD-3-Clause
 Redistribution and use in source and binary forms, with or without modification, are
 permitted provided that the following conditions are met:
 .
 1. Redistributions of source code must retain the above copyright notice, this list
 of conditions and the following disclaimer.
 .
 2. Redistributions in binary form must reproduce the above copyright notice, this
 list of conditions and the following disclaimer in the documentation and/or other
 materials provided with the distribution.
 .
 3. Neither the name of the copyright holder nor the names of its contributors may be
 used to endorse or promote products derived from this software without specific
 prior written permission.
 .
 THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS" AND ANY
 EXPRESS OR IMPLIED WARRANTIES, INCLUDING, BUT NOT LIMITED TO, THE IMPLIED WARRANTIES
 OF MERCHANTABILITY AND FITNESS FOR A PARTICULAR PURPOSE ARE DISCLAIMED. IN NO EVENT
 SHALL THE COPYRIGHT HOLDER OR CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT,
 INCIDENTAL, SPECIAL, EXEMPLARY, OR CONSEQUENTIAL DAMAGES (INCLUDING, BUT NOT LIMITED
 TO, PROCUREMENT OF SUBSTITUTE GOODS OR SERVICES; LOSS OF USE, DATA, OR PROFITS; OR
 BUSINESS INTERRUPTION) HOWEVER CAUSED AND ON ANY THEORY OF LIABILITY, WHETHER IN
 CONTRACT, STRICT LIABILITY, OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN
 ANY WAY OUT OF THE USE OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF SUCH
 DAMAGE.

License: Unlicense
 This is free and unencumbered software released into the public domain. For more
 information, please refer to <https://unlicense.org>.

License: LGPL-2.1+
 On Debian systems, the full text is in /usr/share/common-licenses/LGPL-2.1.

License: GPL-3+ with GCC-exception
 On Debian systems, the full text is in /usr/share/common-licenses/GPL-3. The GCC
 Runtime Library Exception 3.1 permits programs that are linked with it under any
 licence.
TEXT
} >"$tmp/copyright"

if [ "$check" ]; then
    cmp -s "$tmp/copyright" scripts/dist/copyright && exit
    echo "copyright.sh: scripts/dist/copyright is stale: run scripts/dist/copyright.sh" >&2
    exit 1
fi
cp "$tmp/copyright" scripts/dist/copyright
