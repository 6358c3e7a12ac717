#!/usr/bin/env bash
# Trains this model from nothing: train.sh DATA WORK
#
# DATA holds the text files named below; WORK receives corpora and models. The vocabulary and the first weights are
# functions of the text and the seed, so the same text gives the same start; the same adapter and driver, the same end.
set -euo pipefail
data=${1:?usage: train.sh DATA WORK}
work=${2:?usage: train.sh DATA WORK}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
retto=${RETTO:-retto}
export LC_ALL=C.UTF-8
mkdir -p "$work"
cd "$work"

# Nearly a quarter of Tatoeba's lines name Tom or Mary; lines of a word or two teach little.
{
    cat "$data/common_voice_cc0.txt" "$data/se_fiction_dialogue_pd.txt"
    grep -vwE 'Tom|Mary' "$data/tatoeba_ccby20fr.txt"
} | awk 'length($0) >= 8' | sort -u | shuf --random-source=<(yes 42) >all.txt
# Every hundredth line is held out.
awk 'NR % 100 == 0' all.txt >held.txt
awk 'NR % 100 != 0' all.txt >train.txt
sha256sum train.txt held.txt

# With the tokenizer that is here, the model begins exactly as this one did. `--data train.txt --vocab-size 4096` in its
# place learns a vocabulary anew.
"$retto" init --tokenizer "$here" --output start \
    --hidden-size 128 --num-hidden-layers 2 --num-attention-heads 2 --max-position-embeddings 64
"$retto" adapt --model start --train train.txt --validation held.txt --output retto-tiny \
    --num-train-epochs 3 --learning-rate 2e-3 --warmup-ratio 0.05 --weight-decay 0.01 --mlm-probability 0.2 \
    --per-device-train-batch-size 128 --per-device-eval-batch-size 128 --logging-steps 100 --no-dropout
