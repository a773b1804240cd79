#!/usr/bin/env bash
# The tests as three machines would run them: an old processor with one thread, a newer one with two,
# and this one as it is, with the tests in random order. Kernels, threads and the order of sums differ
# between them, and so do the last digits of everything computed.
#   ci/any_machine.sh [PYTEST ARGUMENTS]      ORDER=7 ci/any_machine.sh repeats an order
set -uo pipefail
cd "$(dirname "$0")/.."
failed=0

suite() {  # title, then variables, --, and arguments of pytest
  printf '\n== %s\n' "$1"
  shift
  local variables=()
  while [ "$1" != -- ]; do variables+=("$1"); shift; done
  shift
  local start=$SECONDS
  env "${variables[@]}" python -m pytest -q -m 'not slow and not browser' "$@" || failed=1
  printf '== %s seconds\n' "$((SECONDS - start))"
}

threads() { echo "OMP_NUM_THREADS=$1 MKL_NUM_THREADS=$1 OPENBLAS_NUM_THREADS=$1"; }

# shellcheck disable=SC2046  # several variables
suite "no vector instructions beyond SSE4.1, one thread" \
  ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 $(threads 1) -- "$@"
# shellcheck disable=SC2046
suite "AVX2, two threads" \
  ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 $(threads 2) -- "$@"
order=${ORDER:-$RANDOM}
suite "this machine, in random order (ORDER=$order)" -- --random-order "$order" "$@"
exit "$failed"
