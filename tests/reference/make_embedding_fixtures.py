"""Writes fixtures/embedding: losses of sentence-transformers' kind and their gradients, computed by torch through BertModel.

Run as make_fixtures.py is, after it: the model and tokenizer are those of fixtures/fillmask. The formulas are those of
sentence-transformers' TripletLoss and MultipleNegativesRankingLoss, whose training live.py repeats with the package itself.
"""


import torch
from make_fixtures import FIXTURES, write_json, write_tensors
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy, normalize, pairwise_distance, relu
from transformers import BertModel, BertTokenizerFast

# Anchor, positive, negative. The second negative is nearer than the positive is; one text comes twice.
TRIPLETS = [
    ("the rain is cold", "snow and wind", "a small dog sings"),
    ("hello world", "good morning, New York!", "hello hello world"),
    ("we sleep and dream", "the moon is far away", "snow and wind"),
    ("gold", "silver, red and blue", "you never come home again"),
]
CASES = [
    {"loss": "triplet", "distance_metric": "euclidean", "triplet_margin": 5.0, "pooling": "mean", "normalize": False},
    {"loss": "triplet", "distance_metric": "cosine", "triplet_margin": 0.3, "pooling": "cls", "normalize": False},
    {"loss": "triplet", "distance_metric": "euclidean", "triplet_margin": 0.4, "pooling": "max", "normalize": True},
    {"loss": "ranking", "scale": 20.0, "negatives": True, "pooling": "mean", "normalize": False},
    {"loss": "ranking", "scale": 5.0, "negatives": False, "pooling": "cls", "normalize": True},
]


def embed(model: BertModel, tokenizer: BertTokenizerFast, texts: list[str], case: dict) -> Tensor:
    vectors = []
    for text in texts:
        # One by one: no padding, and nothing to mask.
        hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        pooled = {"mean": hidden.mean(0), "cls": hidden[0], "max": hidden.max(0).values}[case["pooling"]]
        vectors.append(pooled)
    stacked = torch.stack(vectors)
    return normalize(stacked, dim=1) if case["normalize"] else stacked


def loss_of(case: dict, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    if case["loss"] == "triplet":
        far = {"euclidean": pairwise_distance, "cosine": lambda a, b: 1 - cosine_similarity(a, b)}
        distance = far[case["distance_metric"]]
        return relu(distance(anchor, positive) - distance(anchor, negative) + case["triplet_margin"]).mean()
    candidates = torch.cat([positive, negative]) if case["negatives"] else positive
    scores = normalize(anchor, dim=1) @ normalize(candidates, dim=1).T
    return cross_entropy(case["scale"] * scores, torch.arange(len(anchor)))


def main() -> None:
    torch.set_num_threads(1)
    source, folder = FIXTURES / "fillmask", FIXTURES / "embedding"
    folder.mkdir(exist_ok=True)
    tokenizer = BertTokenizerFast.from_pretrained(source)
    # In f64, as the other fixtures.
    model = BertModel.from_pretrained(source, add_pooling_layer=False, attn_implementation="eager").double().eval()
    tensors: dict[str, Tensor] = {}
    for index, case in enumerate(CASES):
        model.zero_grad()
        roles = [embed(model, tokenizer, [triplet[role] for triplet in TRIPLETS], case) for role in range(3)]
        loss = loss_of(case, *roles)
        loss.backward()
        tensors[f"{index}.loss"] = loss.detach().reshape(1)
        for name, parameter in model.named_parameters():
            tensors[f"{index}.grad.bert.{name}"] = parameter.grad.clone()
    write_tensors(folder / "reference.safetensors", tensors, {})
    write_json(folder / "cases.json", {"triplets": TRIPLETS, "cases": CASES})


if __name__ == "__main__":
    main()
