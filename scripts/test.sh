#!/usr/bin/env bash
# Everything that a change has to pass; `make test` and CI run exactly this. `quick` leaves out what needs real servers.
#
# Every step runs whatever became of those before it, so that one run tells all. The last line counts the tests of every
# binary, `N passed, N failed` (and `, N skipped` where a test is ignored); the exit status is 0 only if every step was. Before it stands
# what passing tests measured, which cargo does not show.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mode="${1:-all}"
logs="$(mktemp -d)"
trap 'rm -rf "$logs"' EXIT
export CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-auto}"
# The fuzz targets are a package of their own: the same target folder spares building every dependency twice.
target="${CARGO_TARGET_DIR:-$PWD/target}"
# Incremental artifacts are of no use to a run from scratch and cost time and disk.
[ -n "${CI:-}" ] && export CARGO_INCREMENTAL=0

# What tests measured.
figures="$target/figures.txt"
case "$figures" in /*) ;; *) figures="$PWD/$figures" ;; esac

passed=0 failed=0 skipped=0 failed_steps=()

# count LOG: adds up cargo's `test result:` lines.
count() {
  local line
  while read -r line; do
    [[ $line =~ ([0-9]+)\ passed\;\ ([0-9]+)\ failed\;\ ([0-9]+)\ ignored ]] || continue
    passed=$((passed + BASH_REMATCH[1])) failed=$((failed + BASH_REMATCH[2])) skipped=$((skipped + BASH_REMATCH[3]))
  done < <(grep '^test result:' "$1")
}

# step NAME COMMAND...: a failure without a failed test (it did not compile, it crashed) counts as one.
step() {
  local name="$1" log="$logs/${#failed_steps[@]}-$RANDOM" before=$failed started=$SECONDS status
  shift
  printf '\n==> %s\n' "$name"
  "$@" 2>&1 </dev/null | tee "$log"
  status=${PIPESTATUS[0]}
  count "$log"
  if [ "$status" != 0 ]; then
    failed_steps+=("$name")
    [ "$failed" = "$before" ] && failed=$((failed + 1))
  fi
  printf '==> %s: %s in %d s\n' "$name" "$([ "$status" = 0 ] && echo ok || echo "FAILED ($status)")" $((SECONDS - started))
}

# The other test binaries: every one that is there, so that a new one runs without being named here.
integration() {
  local targets=() path name
  for path in tests/*.rs tests/*/main.rs; do
    name="${path#tests/}" name="${name%/main.rs}" name="${name%.rs}"
    [ -e "$path" ] && [ "$name" != layering ] && targets+=(--test "$name")
  done
  rm -f "$figures"
  WEIR_FIGURES="$figures" cargo test --no-fail-fast "${targets[@]}"
}

# What the background job said and how it ended.
installed() {
  until [ -e "$logs/parts.status" ]; do sleep 0.2; done
  cat "$logs/parts"
  return "$(cat "$logs/parts.status")"
}

documentation() { RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --lib; }
# Its own package, so that measuring needs none of weir's dependencies.
bench_package() { cargo test --locked --manifest-path benches/e2e/Cargo.toml --target-dir "$target"; }
fuzz_targets() { CARGO_TARGET_DIR="$target" cargo check --locked --manifest-path fuzz/Cargo.toml; }

finish() {
  [ "$mode" = quick ] || [ ! -e "$figures" ] || { printf '\n==> measured (%s)\n' "$figures"; cat "$figures"; }
  printf '\n'
  [ ${#failed_steps[@]} = 0 ] || { printf 'failed:'; printf ' %s;' "${failed_steps[@]}"; printf '\n'; }
  local line="$passed passed, $failed failed"
  [ "$skipped" = 0 ] || line="$line, $skipped skipped"
  echo "$line"
  [ ${#failed_steps[@]} = 0 ] && [ "$failed" = 0 ] && [ "$passed" != 0 ]
  exit
}

if [ "$mode" != quick ]; then
  step "system packages" scripts/test-parts.sh system
  # Downloads wait for the network while the compiler works.
  { scripts/test-parts.sh >"$logs/parts" 2>&1 </dev/null; echo $? >"$logs/parts.status"; } &
fi
step "format" cargo fmt --check
step "lints" cargo clippy --locked --all-targets -- -D warnings
step "unit tests" cargo test --no-fail-fast --lib --bins
step "layers" cargo test --test layering
[ "$mode" = quick ] && finish

step "test parts" installed
step "integration tests" integration
step "documentation" documentation
step "a build without Kafka compiles" cargo check --lib --no-default-features
step "benchmarks compile" cargo check --benches --features bench
step "the bench's own tests" bench_package
step "fuzz targets compile" fuzz_targets
finish
