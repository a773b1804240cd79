#!/usr/bin/env bash
# The one gate, the same on a laptop and in CI: formatting, lint, types, import boundaries, tests.
#   ci/check.sh            everything
#   ci/check.sh --static   all but the tests
#   ci/check.sh --slow     everything, full-size models too
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; "$@"; }

step ruff format --check .
step ruff check .
step mypy
step python -m pytest -q tests/test_boundaries.py
case "${1:-}" in
  --static) ;;
  --slow) step python -m pytest ;;
  "") step python -m pytest -m 'not slow and not browser' ;;
  *) echo "usage: ci/check.sh [--static | --slow]" >&2; exit 2 ;;
esac
