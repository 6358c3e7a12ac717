"""Writes a BertForMaskedLM as an ONNX graph of any batch and length.

    python export_onnx.py --model DIR --output FILE
"""

import argparse
from pathlib import Path

import torch
from torch.export import Dim
from transformers import AutoModelForMaskedLM


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes a BertForMaskedLM as an ONNX graph of any batch and length.")
    parser.add_argument("--model", type=Path, required=True, help="a Hugging Face folder")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    model = AutoModelForMaskedLM.from_pretrained(options.model, local_files_only=True, dtype=torch.float32).eval()
    # Neither 1 long nor of the same two lengths: the exporter takes such numbers for constants.
    example = {"input_ids": torch.ones(2, 7, dtype=torch.long), "attention_mask": torch.ones(2, 7, dtype=torch.long)}
    sizes = {0: Dim("batch"), 1: Dim("sequence", max=model.config.max_position_embeddings)}
    torch.onnx.export(
        model,
        kwargs=example,
        f=options.output,
        dynamo=True,
        dynamic_shapes={name: sizes for name in example},
        input_names=list(example),
        output_names=["logits"],
    )


if __name__ == "__main__":
    main()
