#!/usr/bin/env bash
# Train all models on one GPU in ten minutes, without a network: the large base, the small one taught by it, a reranker for
# each, and the small one's query encoder.
#
#   training/gpu.sh prepare PAIRS...   where the bases and the package index are: writes build/gpu/part.* and parts.sha256
#   training/gpu.sh run                where the GPU is and those files have been copied: trains, and prints a table
#   training/gpu.sh receive            where `prepare` ran, with the files of $OUT in build/gpu/received: build/gpu/trained
#
# Each part has at most $PART; the results are in files of at most 15 MB in $OUT, written anew every minute, so that a run
# that is cut off loses a minute. `run` again continues it. All settings below can be set in the environment. A model with 0
# seconds is not trained; without the large one the small one has no teacher.
set -euo pipefail
cd "$(dirname "$0")/.."

LARGE=${LARGE:-embedded-large} SMALL=${SMALL:-embedded} # bases
PART=${PART:-24m}
PYTHON=${PYTHON:-python3}
TARGET_PYTHON=${TARGET_PYTHON:-3.12} # of the wheels; "none": the packages are installed there
DEVICE=${DEVICE:-cuda}
WORK=${WORK:-build/gpu}
OUT=${OUT:-$WORK/out-files}
LARGE_SECONDS=${LARGE_SECONDS:-220} SMALL_SECONDS=${SMALL_SECONDS:-120} STUDENT_SECONDS=${STUDENT_SECONDS:-20}
SMALL_RERANKER_SECONDS=${SMALL_RERANKER_SECONDS:-60} LARGE_RERANKER_SECONDS=${LARGE_RERANKER_SECONDS:-60}
# More options of `train`, `train-reranker` and `distil`; those of one model come after those of all.
TRAIN_OPTIONS=${TRAIN_OPTIONS:-} LARGE_OPTIONS=${LARGE_OPTIONS:-} SMALL_OPTIONS=${SMALL_OPTIONS:-}
RERANKER_OPTIONS=${RERANKER_OPTIONS:---set named=0.5 --set held_out=0.02 --set doc=0.3 --set commit=0.3 --batch-size 128
  --set hard_negatives=5 --set judged_negatives=1 --set max_tokens=192}
STUDENT_OPTIONS=${STUDENT_OPTIONS:-}
FORWARD_TOKENS=${FORWARD_TOKENS:-65536}
# How often the pairs of a kind are in the mixture that travels.
KINDS=${KINDS-symbol=0.2 path=0.3 commit=0.4 test=0.5 other=2}
# What the product needs beside torch, transformers and what comes with them; no grammar, because nothing is parsed.
PACKAGES='aiosqlite|annotated-types|banks|charset-normalizer|dataclasses-json|datasketch|Deprecated|dirtyjson'
PACKAGES+='|fastjsonschema|filetype|greenlet|griffe|griffecli|griffelib|ir_measures|jsonschema'
PACKAGES+='|jsonschema-specifications|jupyter_core|llama-index-core|llama-index-instrumentation'
PACKAGES+='|llama-index-workflows|marshmallow|nbformat|nest-asyncio|nltk|peft|platformdirs|pydantic|pydantic_core'
PACKAGES+='|pytrec_eval-terrier|referencing|rpds-py|SQLAlchemy|tantivy|tenacity|tinytag|traitlets|tree-sitter'
PACKAGES+='|typing-inspect|typing-inspection|watchfiles'
TRAINED=$WORK/trained
export HF_HUB_OFFLINE=1 CODE_RETRIEVAL_CACHE=$PWD/$WORK/cache PYTHONPATH=$PWD:$PWD/$WORK/content/site${PYTHONPATH:+:$PYTHONPATH}
export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True NVIDIA_TF32_OVERRIDE=1

prepare() {
  [ $# -gt 0 ] || { echo "usage: training/gpu.sh prepare PAIRS..." >&2; exit 2; }
  rm -rf "$WORK"
  mkdir -p "$WORK/content"
  env -u CODE_RETRIEVAL_CACHE CODE_RETRIEVAL_CACHE="${BASES_CACHE:-}" \
    "$PYTHON" - "$WORK/content" "$LARGE" "$SMALL" "$KINDS" "$@" <<'PYTHON'
import sys

from llamaindex_code_retrieval.training import load_pairs
from llamaindex_code_retrieval.training.near_duplicates import near_duplicate_clusters
from llamaindex_code_retrieval.training.pairs import write_pairs
from llamaindex_code_retrieval.training.sampling import mix_kinds
from llamaindex_code_retrieval.training.transfer import pack_base

folder, large, small, kinds, *sources = sys.argv[1:]
pack_base(large, f"{folder}/large")
pack_base(small, f"{folder}/small")
pairs = load_pairs(*sources)
clusters = near_duplicate_clusters([pair.code for pair in pairs])
first = {cluster: pairs[place].code for place, cluster in reversed(list(enumerate(clusters)))}
kept = [pair for pair, cluster in zip(pairs, clusters) if first[cluster] == pair.code]
print(f"{len(kept):,} of {len(pairs):,} pairs; the others are of near-duplicates")
weights = {kind: float(weight) for kind, _, weight in (each.partition("=") for each in kinds.split())}
kept = mix_kinds(kept, weights, seed=0)
write_pairs(f"{folder}/pairs.jsonl", kept)
print(f"{len(kept):,} pairs in the mixture of kinds")
PYTHON
  if [ "$TARGET_PYTHON" != none ]; then
    "$PYTHON" -m pip freeze | grep -E "^($PACKAGES)==" >"$WORK/wheels.txt"
    "$PYTHON" -m pip download --quiet --dest "$WORK/content/wheels" --only-binary=:all: --no-deps \
      --python-version "$TARGET_PYTHON" --requirement "$WORK/wheels.txt"
  fi
  tar -C "$WORK/content" -cf - . | xz -3 -T0 | split -b "$PART" -d -a 2 - "$WORK/part."
  (cd "$WORK" && sha256sum part.* >parts.sha256)
  rm -rf "$WORK/content"
  echo "copy these files to the same folder of a checkout on the machine with the GPU:"
  du -h "$WORK"/part.* "$WORK/parts.sha256"
}

unpack() {
  [ -d "$WORK/content" ] && return
  (cd "$WORK" && sha256sum --quiet --check parts.sha256) ||
    { echo "a part is missing or altered; copy it again" >&2; exit 2; }
  mkdir -p "$WORK/content.tmp"
  cat "$WORK"/part.* | tar -C "$WORK/content.tmp" -xJf -
  if [ -d "$WORK/content.tmp/wheels" ]; then
    "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --target "$WORK/content.tmp/site" \
      "$WORK"/content.tmp/wheels/*.whl
  fi
  mv "$WORK/content.tmp" "$WORK/content"
}

# stage NAME SECONDS COMMAND OPTIONS...: train one model, or go on with it; a failure leaves the others.
stage() {
  local name=$1 seconds=$2 resume=()
  shift 2
  [ "$seconds" -gt 0 ] || return 0
  [ -f "$TRAINED/$name/state.safetensors" ] && resume=(--resume)
  if [ -f "$TRAINED/$name/train_config.json" ] && [ ! -f "$TRAINED/$name/state.safetensors" ]; then return; fi
  "$PYTHON" -m llamaindex_code_retrieval.cli "$@" --pairs "$WORK/content/pairs.jsonl" --out "$TRAINED/$name" \
    --device "$DEVICE" --set "max_seconds=$seconds" --set save_seconds=60 --set save_steps=1000000 \
    --set "forward_tokens=$FORWARD_TOKENS" ${resume[@]+"${resume[@]}"} >"$WORK/$name.log" 2>&1 ||
    { echo "$name failed:" && tail -5 "$WORK/$name.log" && touch "$WORK/failed"; } >&2
  collect
}

reranker() {
  # shellcheck disable=SC2086 # the options are several words
  stage "$1-reranker" "$2" train-reranker --base "$WORK/content/$1" --retriever "$TRAINED/$1" --set compare_codes=false \
    $RERANKER_OPTIONS
}

collect() (
  flock 9
  mkdir -p "$OUT.tmp" "$OUT"
  cp "$WORK"/*.log "$TRAINED" 2>/dev/null || true
  # a state may be replaced while it is read: the next minute reads it again
  tar -C "$TRAINED" -czf - . 2>/dev/null | split -b 15m -d -a 2 - "$OUT.tmp/trained.tar.gz." || true
  rm -f "$OUT"/trained.tar.gz.*
  mv "$OUT.tmp"/trained.tar.gz.* "$OUT"
  rmdir "$OUT.tmp"
) 9>"$WORK/lock"

run() {
  local taught=(--set 'teachers=[]' --set teacher_weight=0)
  unpack
  mkdir -p "$TRAINED"
  rm -f "$WORK/failed"
  (while sleep 60; do collect; done) >/dev/null 2>&1 &
  local saver=$!
  if [ "$LARGE_SECONDS" -gt 0 ]; then
    taught=(--set "teachers=[\"$WORK/content/large=$TRAINED/large\"]")
  fi
  # shellcheck disable=SC2086 # the options are several words
  {
    stage large "$LARGE_SECONDS" train --recipe embedded-large-general --base "$WORK/content/large" \
      $TRAIN_OPTIONS $LARGE_OPTIONS
    # one training alone leaves a part of the GPU idle
    reranker large "$LARGE_RERANKER_SECONDS" &
    local beside=$!
    stage small "$SMALL_SECONDS" train --recipe embedded-general --base "$WORK/content/small" "${taught[@]}" \
      $TRAIN_OPTIONS $SMALL_OPTIONS
    reranker small "$SMALL_RERANKER_SECONDS"
    stage small-layers "$STUDENT_SECONDS" distil --kind layers --base "$WORK/content/small" --teacher "$TRAINED/small" \
      --set int8=false $STUDENT_OPTIONS
    wait "$beside"
  }
  kill "$saver"
  wait "$saver" 2>/dev/null || true
  table
  [ ! -e "$WORK/failed" ]
}

table() {
  "$PYTHON" - "$TRAINED" large small small-reranker large-reranker small-layers <<'PYTHON'
import json
import sys
from pathlib import Path

folder, *names = sys.argv[1:]
print(f"{'model':16} {'steps':>7} {'seconds':>8} {'MRR before':>11} {'after':>7}")
failed = 0
for name in names:
    path = Path(folder, name, "train_config.json")
    if not path.parent.is_dir():
        continue
    if not path.is_file() or path.with_name("state.safetensors").is_file():
        print(f"{name:16} not finished")
        failed = 1
        continue
    record = json.loads(path.read_text())
    scores = record.get("calibration_scores") or {
        "first stage": record.get("validation_before") or record.get("teacher_validation") or {},
        "reranked": record["validation_best"] or {},
    }
    before, after = (f"{scores[key]['mrr']:.4f}" if scores[key] else "-" for key in ("first stage", "reranked"))
    print(f"{name:16} {record['steps']:7,} {record['seconds']:8.0f} {before:>11} {after:>7}")
raise SystemExit(failed)
PYTHON
}

receive() {
  rm -rf "$TRAINED"
  mkdir -p "$TRAINED"
  cat "$WORK"/received/trained.tar.gz.* | tar -C "$TRAINED" -xzf -
  CODE_RETRIEVAL_CACHE="${BASES_CACHE:-}" "$PYTHON" - "$TRAINED" "$LARGE" "$SMALL" <<'PYTHON'
import sys
from pathlib import Path

from llamaindex_code_retrieval.training.transfer import adopt

trained, large, small = Path(sys.argv[1]), *sys.argv[2:]
bases = {"large": large, "small": small, "small-reranker": small, "large-reranker": large, "small-layers": small}
for name, base in bases.items():
    if (trained / name / "train_config.json").is_file() and not (trained / name / "state.safetensors").is_file():
        adopt(trained / name, base, teacher=trained / name.split("-")[0])
PYTHON
  table
}

case "${1:-}" in
prepare | run | receive) "$@" ;;
*) sed -n '2,13s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac
