#!/usr/bin/env bash
# Runs make targets one after the other, and ends with a table of their times and closing lines:
# scripts/stages.sh [-k] TARGET...   A failure ends the run, or with -k the rest runs as well. a+b runs two
# targets side by side: one that keeps a single core busy beside one that compiles.
set -uo pipefail
keep_going=no
[ "${1:-}" != -k ] || { keep_going=yes; shift; }
logs=.build/stages
mkdir -p "$logs"
started=$EPOCHSECONDS
rows=()
failed=0

table() {
  printf '\n%-24s %7s  %-6s %s\n' stage seconds result 'closing line'
  [ ${#rows[@]} -eq 0 ] || printf '%s\n' "${rows[@]}"
  printf '%-24s %7d\n' total $((EPOCHSECONDS - started))
}
trap 'table; exit 130' INT TERM

for stage in "$@"; do
  printf '\n=== %s\n' "$stage"
  start=$EPOCHSECONDS
  result=ok
  "${MAKE:-make}" --no-print-directory -j3 ${stage//+/ } 2>&1 | tee "$logs/$stage.log" || result=FAILED
  # pytest: "412 passed, 3 skipped in 301.20s"; ctest: "100% tests passed, 0 tests failed out of 2"
  closing=$(grep -E '[0-9]+ (passed|failed|error)|tests passed' "$logs/$stage.log" | tail -2 | paste -sd ';')
  rows+=("$(printf '%-24s %7d  %-6s %s' "$stage" $((EPOCHSECONDS - start)) "$result" "$closing")")
  if [ "$result" = FAILED ]; then
    failed=1
    [ "$keep_going" = yes ] || break
  fi
done
table
exit "$failed"
