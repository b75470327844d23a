"""What mining costs at sizes that were not measured, from what was: the tables of kernels/MINING.md.

    python kernels/tests/bench/model.py [--pair-ns 1.84] [--image-bytes 11500] [--dim 768] \
        [--channels 3] [--cores 64] [--node-gb 512]

`--pair-ns` is the time of one core for one new vector and one row, in batches of 252 (`mining
growth`: ms each / live images / channels × cores), `--image-bytes` what `mining memory` prints.
"""

import argparse
import math

SIZES = [1_000_000, 20_000_000, 100_000_000, 1_000_000_000]
LISTED = 16  # ten neighbours and the slack
H100_TOPS = 1979e12  # int8, data sheet
GPU_SHARE = 0.5  # of it: an assumption, no figure of ours
GPU_GB = 80


def said(seconds):
    for unit, size in [("years", 31_557_600), ("days", 86_400), ("h", 3_600), ("min", 60)]:
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def main(options):
    print(f"| images | one new image, {options.cores} cores | from nothing | nodes for memory |"
          " bytes sent an image | one new image, H100 | from nothing | GPUs for codes |")
    print("|---|---|---|---|---|---|---|---|")
    for n in SIZES:
        pairs = n * options.channels
        cpu = pairs * options.pair_ns * 1e-9 / options.cores
        nodes = math.ceil(n * options.image_bytes / (0.8e9 * options.node_gb))
        of_node = cpu / nodes
        sent = (nodes - 1) * 2 * options.dim * options.channels
        sent += (nodes - 1) * options.channels * (LISTED * 12 + 40)
        gpu = pairs * 2 * options.dim / (GPU_SHARE * H100_TOPS)
        gpus = math.ceil(n * options.channels * options.dim / (0.8e9 * GPU_GB))
        print(f"| {n:,} | {said(of_node)} | {said(of_node * n / 2)} | {nodes} | {sent:,} |"
              f" {said(gpu / gpus)} | {said(gpu / gpus * n / 2)} | {gpus} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--pair-ns", type=float, default=1.84)
    parser.add_argument("--image-bytes", type=float, default=11_500)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--cores", type=int, default=64)
    parser.add_argument("--node-gb", type=float, default=512)
    main(parser.parse_args())
