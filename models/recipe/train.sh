#!/usr/bin/env bash
# Trains the default model from nothing: train.sh DATA WORK
#
# DATA has the folders lyrics/ (only to keep it out), modern/, poems/ and prose/; WORK receives text, caches and models. Text,
# vocabulary, token cache and first weights are functions of the data and the seed: their hashes are printed. The same adapter
# and driver then end with the same weights.
#
# For more: STEPS and DECAY are optimizer steps of 2,048 tokens, a fifth for the decay; HIDDEN, LAYERS, HEADS and VOCABULARY are
# the shape. With more than a few hours take a wider model (192 or 256) and all of the text: SHARES="--prose-share 1 --poems-share 1".
set -euo pipefail
data=${1:?usage: train.sh DATA WORK}
work=${2:?usage: train.sh DATA WORK}
data=$(realpath "$data")
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
retto=${RETTO:-retto}
: "${VOCABULARY:=4096}" "${HIDDEN:=128}" "${LAYERS:=2}" "${HEADS:=4}" "${RATE:=1.5e-3}" "${STEPS:=17044}" "${DECAY:=4000}" "${SHARES:=}"
export LC_ALL=C.UTF-8
mkdir -p "$work"
cd "$work"

# shellcheck disable=SC2086 # several options
python3 "$here/prepare.py" "$data" text $SHARES

# A few entries more than wanted, as scrub.py takes some out.
"$retto" init --data text/train.txt --vocab-size $((VOCABULARY + 16)) --output learned \
    --hidden-size 64 --num-hidden-layers 1 --max-position-embeddings 64
python3 "$here/scrub.py" learned tokenizer "$VOCABULARY"
python3 "$here/plain.py" tokenizer
"$retto" init --tokenizer tokenizer --output start --hidden-size "$HIDDEN" --num-hidden-layers "$LAYERS" \
    --num-attention-heads "$HEADS" --max-position-embeddings 64

"$retto" prepare --model start --data text/train.txt --output cache
for kind in modern prose poems; do
    "$retto" prepare --model start --data "text/held-$kind.txt" --output "held-$kind" --static-mask
done
sha256sum start/vocab.txt start/model.safetensors

# A constant rate, then a decay: how long the first takes may be decided while it runs.
common=(--train cache/train.safetensors --learning-rate "$RATE" --weight-decay 0.01 --mlm-probability 0.2
    --batch-tokens 2048 --no-dropout --logging-steps 100 --save-steps 1000 --save-total-limit 1)
# 500 steps of warm-up, as a share.
"$retto" adapt --model start --output constant "${common[@]}" --max-steps "$STEPS" \
    --lr-scheduler-type constant_with_warmup --warmup-ratio "$(awk -v n="$STEPS" 'BEGIN { printf "%.17g", 499.5 / n }')"
# Another seed, so that the examples that came first are not the first again.
"$retto" adapt --model constant --output trained "${common[@]}" --max-steps "$DECAY" --seed 43 \
    --lr-scheduler-type linear --warmup-ratio 0.02

mkdir -p model
cp trained/{config.json,vocab.txt,tokenizer.json,tokenizer_config.json} model/
python3 "$here/halve.py" trained/model.safetensors model/model.safetensors
sha256sum trained/model.safetensors model/model.safetensors
for kind in modern prose poems; do
    "$retto" eval --static-mask --model model --data "held-$kind/train.safetensors" --json
done

# The domain to adapt to: one song of twenty held out, two epochs on the others.
"$retto" prepare --model model --data "$data/lyrics" --output lyrics --validation-split 0.05 --static-mask
"$retto" adapt --model model --train lyrics/train.safetensors --output adapted --num-train-epochs 2 \
    --learning-rate "$RATE" --lr-scheduler-type linear --warmup-ratio 0.05 --batch-tokens 2048 --no-dropout --logging-steps 100
for of in model adapted; do
    "$retto" eval --static-mask --model "$of" --data lyrics/validation.safetensors --json
done
