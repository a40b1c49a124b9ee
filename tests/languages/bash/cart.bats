#!/usr/bin/env bats

setup() {
  load 'helpers'
}

# Adds two prices.
@test "adds 2 prices" {
  helper() { echo 1; }
  run total 1 2
  [ "$status" -eq 0 ]
  if [ "$output" = 3 ]; then
    { echo "three"; }
  fi
}

@test 'is empty' { run total; [ "$output" = 0 ]; }

@test no_quotes {
  skip
}
teardown() { rm -f x; }
