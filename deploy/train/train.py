"""Composed image retrieval, trained on `everpair export --format webdataset`: query image and
instruction in, target image out. An example to begin from; the model is small and starts from
nothing.

    python train.py DIR [--steps 200] [--out model.pt]

As in MegaPairs (arXiv 2412.14475): the query is the sum of the embeddings of image and instruction,
one instruction is taken at random, the loss is InfoNCE at temperature 0.02 over the targets and the
hard negatives of the whole batch, and of the hard negatives of a row the first is the query image
itself. Without that one a model learns to give back the query.
"""

import argparse
import itertools
import json
import random
import re
import zlib

import numpy
import torch
from torch import nn
from torch.nn import functional

from data import Triplets

TEMPERATURE = 0.02
WORDS = 1 << 14


class Model(nn.Module):
    """Images and texts into one space."""

    def __init__(self, width=128):
        super().__init__()
        sizes = [3, 32, 64, 128]
        layers = []
        for one, other in zip(sizes, sizes[1:]):
            layers += [nn.Conv2d(one, other, 3, stride=2, padding=1), nn.GroupNorm(8, other), nn.GELU()]
        # Where things are matters as much as what they are: a grid of cells, not their mean.
        layers += [nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(sizes[-1] * 16, width)]
        self.image = nn.Sequential(*layers)
        self.words = nn.EmbeddingBag(WORDS, width, mode="mean")
        self.text = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def candidates(self, images):
        return functional.normalize(self.image(images), dim=-1)

    def queries(self, images, words, offsets):
        text = self.text(self.words(words, offsets))
        return functional.normalize(self.image(images) + text, dim=-1)


def pixels(image, side):
    array = numpy.asarray(image.resize((side, side)), dtype=numpy.float32)
    return torch.from_numpy(array / 127.5 - 1).permute(2, 0, 1)


def hashed(text):
    """Words and pairs of neighbours as numbers: no vocabulary to learn or to ship."""
    words = re.findall(r"\w+", text.lower())
    pairs = [f"{one} {other}" for one, other in zip(words, words[1:])]
    return [zlib.crc32(part.encode()) % WORDS for part in words + pairs] or [0]


def batch(rows, side, negatives, rng):
    """Tensors of some rows: queries, their words, candidates, which one is right, which to pass
    over because it may be right too."""
    texts = [hashed(rng.choice(row["about"]["instructions"])) for row in rows]
    offsets = torch.tensor([0, *itertools.accumulate(map(len, texts))][:-1])
    ids, images = [], []
    for row in rows:
        ids.append(row["about"]["target_id"])
        images.append(row["target"])
    for row in rows:
        ids += row["about"]["hard_negatives"][:negatives]
        images += row["negatives"][:negatives]
    same = torch.tensor([[row["about"]["target_id"] == id for id in ids] for row in rows])
    right = torch.arange(len(rows))
    same[right, right] = False
    return {
        "queries": torch.stack([pixels(row["query"], side) for row in rows]),
        "words": torch.tensor(list(itertools.chain(*texts))),
        "offsets": offsets,
        "candidates": torch.stack([pixels(image, side) for image in images]),
        "right": right,
        "same": same,
    }


def loss_of(model, data):
    queries = model.queries(data["queries"], data["words"], data["offsets"])
    scores = queries @ model.candidates(data["candidates"]).T / TEMPERATURE
    scores = scores.masked_fill(data["same"], float("-inf"))
    found = (scores.argmax(dim=1) == data["right"]).float().mean()
    return functional.cross_entropy(scores, data["right"]), found


def batches(arguments, rng):
    """Without end: an epoch of the rows after the other, each in an order of its own."""
    for epoch in itertools.count():
        rows = iter(Triplets(arguments.export, shuffle=1_000, seed=arguments.seed + epoch))
        size = 0
        while taken := list(itertools.islice(rows, arguments.batch)):
            size += len(taken)
            if len(taken) > 1:
                yield batch(taken, arguments.side, arguments.negatives, rng)
        if size < 2:
            raise SystemExit("the export has too few rows to train on")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("export", help="folder of everpair export --format webdataset")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--negatives", type=int, default=4, help="hard negatives a row")
    parser.add_argument("--side", type=int, default=64, help="pixels")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", type=int, default=10, help="steps between two lines of JSON")
    parser.add_argument("--out", help="where the weights go")
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Model().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.rate)
    source = batches(arguments, random.Random(arguments.seed))
    losses, hits = [], []
    for step, data in enumerate(itertools.islice(source, arguments.steps), 1):
        data = {name: tensor.to(device) for name, tensor in data.items()}
        loss, found = loss_of(model, data)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        hits.append(found.item())
        if step % arguments.every == 0 or step == arguments.steps:
            mean = [round(sum(values) / len(values), 4) for values in (losses, hits)]
            print(json.dumps({"step": step, "loss": mean[0], "right": mean[1]}), flush=True)
            losses, hits = [], []
    if arguments.out:
        torch.save(model.state_dict(), arguments.out)


if __name__ == "__main__":
    main()
