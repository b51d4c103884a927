#!/usr/bin/env bash
# The whole line on drawn data: sample data -> shards -> inspect -> train -> evaluate -> chat.
#
# usage: ./demo.sh [FOLDER]      (`make demo` sets up first; the folder defaults to demo)
#
# Every command is echoed as it runs: change one and go on from there. Each leaves whole results
# only: kill this script at any point, run it again, and it goes on where it was.
set -euo pipefail

out=${1:-demo}
data=$out/data shards=$out/shards run=$out/run
times=""

step() { # step NAME COMMAND...: echo a command, run it, note how long it took
  local name=$1 started=$SECONDS
  shift
  printf '\n\033[1m$ %s\033[0m\n' "$*"
  "$@"
  times+="$name $((SECONDS - started)) "
}

mkdir -p "$out"
step sample vchat-prep sample-data --out "$data" --images 8000 --seed 1
step build vchat-prep build --recipe tiny --data "$data" --tokenizer "$data/tokenizer" \
  --out "$shards" --workers 2
step inspect vchat-shards inspect "$shards"
step verify vchat-shards verify "$shards"
step show vchat-shards show "$shards" 0
step html vchat-shards html "$shards" --out "$out/shards.html"
step train deepspeed --num_accelerators 2 --module vchat.train run tiny.toml \
  --set "data.shards=$shards" --set "run.out=$run"
step evaluate vchat-train eval --checkpoint "$run" --questions "$data/eval.json" \
  --ablations --out "$out/evaluation"

mapfile -t pair < <(python - "$data" <<'PYTHON'
import json, sys
questions = json.load(open(f"{sys.argv[1]}/eval.json"))
asked = next(one for one in questions if one["kind"] == "which_image")
print(*(f"{sys.argv[1]}/{image}" for image in asked["images"]), asked["question"], sep="\n")
PYTHON
)
printf '%s\n' "/image ${pair[0]}" "/image ${pair[1]}" "${pair[2]}" "Describe Image 1." \
  /quit > "$out/questions.txt"
step chat sh -c "vchat-chat --checkpoint $run < $out/questions.txt > $out/chat.txt"

printf '\n\033[1m%s\033[0m\n' "Summary"
python - "$out" <<'PYTHON'
import json, sys
from pathlib import Path
out = Path(sys.argv[1])
made = json.loads((out / "shards/report.json").read_text())["shards"]
last = json.loads((out / "run/log.jsonl").read_text().splitlines()[-1])
scores = json.loads((out / "evaluation/answers.json").read_text())["scores"]
print(f"   shards {made['shards']} with {made['samples']} dialogues, {made['images']} images")
print(f" training {last['step']} steps, held-out loss {last['eval_loss']:.4f}")
for group in ("single-image", "two-image"):
    found = {name: next(one for one in run if one["group"] == group) for name, run in scores.items()}
    right = {name: f"{one['accuracy']:.1%}" for name, one in found.items()}
    low, high = found["as-is"]["interval_95"]
    print(f" held out {group} questions {right['as-is']} right ({low:.1%} to {high:.1%}; chance "
          f"{found['as-is']['chance']:.1%}), images blanked {right['blank']}, swapped {right['swapped']}")
PYTHON
printf '%9s %s\n' "chat" "about two held-out images:"
sed 's/^/          /' "$out/chat.txt"
printf '%9s %s\n' "look at" "$out/shards.html (the dialogues), $shards/report.html (every row accounted for)"
printf '%9s %s\n' "seconds" "${times% }"
