#!/usr/bin/env bash
# Mine pairs of all kinds from many repositories, then join them without what evaluations use.
#
#   training/mine_repositories.sh LIST OUT HELD_OUT [BENCHMARK ...]
#
# LIST and HELD_OUT name repositories, owner/name a line, in LIST perhaps followed by a revision; those of HELD_OUT are left
# out. benchmarks/training_repositories.txt is the LIST of the shipped models. A BENCHMARK is an evaluation set
# as `code-retrieval mine --benchmark` takes it. The result is OUT/pairs.jsonl.gz. Each repository is cloned, mined into
# OUT/mined and removed; those that are there already are not mined again, so an interrupted run goes on where it stopped.
#
# Variables: SOURCE, the address before owner/name (default https://github.com); SECONDS_EACH, after which a repository is
# given up (default 900); LIMIT, pairs of a repository and kind (default 1500).
set -euo pipefail
list=$1 out=$2 held_out=$3
shift 3
source=${SOURCE:-https://github.com}
mkdir -p "$out/mined" "$out/logs"
clone=$(mktemp -d)
trap 'rm -rf "$clone"' EXIT

while read -r name revision; do
  id=${name//\//+}
  if [ -e "$out/mined/$id.jsonl.gz" ] || [ -e "$out/logs/$id.failed" ] || grep -qixF "$name" "$held_out"; then
    continue
  fi
  rm -rf "$clone/$id"
  if git clone --quiet "$source/$name.git" "$clone/$id" 2>"$out/logs/$id.log" \
    && git -C "$clone/$id" checkout --quiet --detach "${revision:-HEAD}" 2>>"$out/logs/$id.log" \
    && git -C "$clone/$id" remote set-url origin "https://github.com/$name.git" \
    && timeout "${SECONDS_EACH:-900}" code-retrieval mine "$clone/$id" --history --sections --names --tests --permissive-only \
      --exclude-repositories "$held_out" --out "$out/mined/$id.jsonl.gz" --json >"$out/logs/$id.json" 2>>"$out/logs/$id.log"; then
    echo "$name mined"
  else
    mv "$out/logs/$id.log" "$out/logs/$id.failed"
    echo "$name failed: $(tail -n 1 "$out/logs/$id.failed")"
  fi
  rm -rf "${clone:?}/$id"
done <"$list"

benchmarks=()
for benchmark in "$@"; do
  benchmarks+=(--benchmark "$benchmark")
done
code-retrieval mine "$out"/mined/*.jsonl.gz --permissive-only --exclude-repositories "$held_out" "${benchmarks[@]}" \
  --max-per-repository "${LIMIT:-1500}" --out "$out/pairs.jsonl.gz" --json >"$out/report.json"
