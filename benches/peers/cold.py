"""The shortest programs that fill one mask with transformers. Their time is taken from outside.

    python cold.py --model DIR --text "The capital of France is [MASK]."
"""

import argparse
import json
import os
import sys

from measure import peak_host_bytes

# A benchmark must not wait for a model hub.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

TOP_K = 5


def with_pipeline(model: str, text: str) -> list[tuple[str, float]]:
    from transformers import pipeline

    return [(answer["token_str"], answer["score"]) for answer in pipeline("fill-mask", model=model, top_k=TOP_K)(text)]


def direct(model: str, text: str) -> list[tuple[str, float]]:
    import torch
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    inputs = tokenizer(text, return_tensors="pt")
    with torch.inference_mode():
        logits = AutoModelForMaskedLM.from_pretrained(model, local_files_only=True)(**inputs).logits
    scores, ids = logits[inputs["input_ids"] == tokenizer.mask_token_id][0].softmax(-1).topk(TOP_K)
    return list(zip(tokenizer.convert_ids_to_tokens(ids.tolist()), scores.tolist()))


parser = argparse.ArgumentParser(description="Fills a mask once, and says with what and in how much memory.")
parser.add_argument("--model", required=True, help="a Hugging Face folder")
parser.add_argument("--text", required=True)
# The pipeline is less to write, but imports what images and sound need too.
parser.add_argument("--direct", action="store_true", help="without the pipeline, which starts faster; on the CPU")
options = parser.parse_args()
answers = (direct if options.direct else with_pipeline)(options.model, options.text)
# Both are loaded by now.
versions = {name: sys.modules[name].__version__ for name in ("transformers", "torch")}
name = f"transformers {versions['transformers']} on torch {versions['torch']}"
print(json.dumps({"name": name, "answers": answers, "peak_host_bytes": peak_host_bytes()}))
