#!/bin/sh
# Installs this bundle on the machine that it is for, or into a mounted image of one:
#
#   ./install.sh [--root MOUNTED_ROOTFS] [--key THUMBPRINT] [--no-start]
#
# Nothing is changed before every file has the digest of the signed manifest. Run again, it changes only
# what differs; a config that is there is kept. --key names the signing key as `tributary flash` printed
# it: with it, a bundle that somebody else made is refused, not only a damaged one.
set -eu

root=
key=
start=yes
while [ $# -gt 0 ]; do
  case $1 in
    --root) root=${2:?--root needs a folder}; start=no; shift 2 ;;
    --key) key=${2:?--key needs a thumbprint}; shift 2 ;;
    --no-start) start=no; shift ;;
    *) echo "install.sh: $1 is no option; see the head of this file" >&2; exit 64 ;;
  esac
done

cd "$(dirname "$0")"
fail() { echo "install.sh: $1" >&2; exit "$2"; }

[ "$(id -u)" = 0 ] || fail "run it as root" 77
[ -z "$root" ] || [ -d "$root" ] || fail "$root is no folder" 64

# Before anything of the bundle runs: is it as it was made? sha256sum is in coreutils and busybox.
sha256sum -c SHA256SUMS >/dev/null 2>&1 || fail "the bundle is damaged: $(sha256sum -c SHA256SUMS 2>/dev/null | grep -v ': OK$' | head -n 1)" 65
release/runtime/bin/node --version >/dev/null 2>&1 ||
  fail "the bundle's Node does not run on this machine ($(uname -m)): is the bundle for another kind?" 65

# Checks the manifest's signature and every file against it, then puts all in place.
release/runtime/bin/node release/app/bin/tributary.mjs gateway install . \
  ${root:+--root "$root"} ${key:+--key "$key"}

if [ "$start" = yes ] && [ -d /run/systemd/system ]; then
  systemd-sysusers
  systemctl daemon-reload
  systemctl enable --now tributary-gateway.service
fi
