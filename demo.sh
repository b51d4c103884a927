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
if [ ! -e "$run/finished" ]; then # a signal has stopped it: its last step is saved
  reached=$(cat "$run/latest" 2> /dev/null || echo "no step")
  echo "training has stopped before its end, after $reached; run this script again to go on" >&2
  exit 1
fi

step evaluate vchat-train eval --checkpoint "$run" --questions "$data/eval.json" \
  --ablations --out "$out/evaluation"

printf '%s\n' "/image $data/eval/images/which_image-000-1.jpg" \
  "/image $data/eval/images/which_image-000-2.jpg" \
  "Describe Image 1." "Describe Image 2." /quit > "$out/questions.txt"
step chat sh -c "vchat-chat --checkpoint $run < $out/questions.txt > $out/chat.txt"

printf '\n%9s %s\n' "chat" "about two held-out images:"
sed 's/^/          /' "$out/chat.txt"
printf '%9s %s\n' "look at" "$out/shards.html (the dialogues), $shards/report.html (every row accounted for)"
printf '%9s %s\n' "" "$out/evaluation/answers.html (every answer)"
printf '%9s %s\n' "seconds" "${times% }"
