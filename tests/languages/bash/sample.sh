#!/usr/bin/env bash
# Builds and releases the shop.
set -euo pipefail

# Prints a message.
#
# Arguments: the message
function log {
  local text=$1
  printf '%s\n' "$text" >&2
}

build() (
  cd "$root"
  make all
)

#######################################
# Releases a version.
#######################################
function release() {
  retry() { "$@" || "$@"; }
  if [[ "$1" =~ ^v[0-9]+$ && -n "${TOKEN:-}" ]]; then
    retry git push origin "$1"
  fi
  cat <<EOF
not_a_function() { :; }
EOF
}

if command -v brew > /dev/null; then
  install_packages() { brew install "$@"; }
else
  install_packages() { apt install "$@"; }
fi

# shellcheck disable=SC2034
shop::cart::total () { awk '{ sum += $1 } END { print sum }' "$1"; }
clean-up.all() { rm -rf "${tmp[@]}"; }
alias ll='ls -l'
trap 'clean-up.all' EXIT

case "${1:-}" in
  build) build ;;
  release)
    release "$2"
    ;;
esac
