"""Rows of `everpair export --format webdataset`, for a trainer; needs Pillow and nothing else.

    python data.py DIR      counts the rows and looks at every picture

An export and its increments are read as one: a row that has left, or that a later part has anew, is
passed over. Tar files are read from front to back, so the folder may be larger than memory.
"""

import io
import json
import pathlib
import random
import sys
import tarfile

from PIL import Image

MANIFEST = "everpair-export.json"


class Triplets:
    """Live rows of an export: dicts with `query`, `target`, `negatives` (Pillow images, the query
    first among the negatives) and the row of `triplets` under `about`.

    `shuffle` is the number of rows held to choose from; 0 keeps the order of the files. `share` and
    `shares` split the files among processes.
    """

    def __init__(self, folder, shuffle=0, seed=0, share=0, shares=1):
        self.folder = pathlib.Path(folder)
        path = self.folder / MANIFEST
        if not path.exists():
            sys.exit(f"{path} is missing: this is no export, or one that was not finished")
        self.manifest = json.loads(path.read_text())
        if self.manifest["format"] != "webdataset":
            sys.exit(f"{folder} is in the form {self.manifest['format']}, not webdataset")
        self.shuffle, self.random, self.share, self.shares = shuffle, random.Random(seed), share, shares
        self.gone = {}
        for part in self.manifest["parts"]:
            if part["deleted"]:
                for line in (self.folder / part["deleted"]["path"]).open():
                    row = json.loads(line)
                    held = self.gone.get(row["triplet_id"], -1)
                    self.gone[row["triplet_id"]] = max(held, row["epoch"])

    def __len__(self):
        return self.manifest["live_rows"]

    def __iter__(self):
        files = [file["path"] for part in self.manifest["parts"] for file in part["files"]]
        if self.shuffle:
            self.random.shuffle(files)
        rows = (row for path in files[self.share :: self.shares] for row in self.read(path))
        return self.shuffled(rows) if self.shuffle else rows

    def shuffled(self, rows):
        held = []
        for row in rows:
            if len(held) < self.shuffle:
                held.append(row)
                continue
            at = self.random.randrange(len(held))
            yield held[at]
            held[at] = row
        self.random.shuffle(held)
        yield from held

    def read(self, path):
        """Live rows of one tar file."""
        with tarfile.open(self.folder / path, "r|") as tar:
            key, members = None, {}
            for member in tar:
                this, _, end = member.name.partition(".")
                if this != key and members:
                    yield from self.row(members)
                    members = {}
                key = this
                members[end] = tar.extractfile(member).read()
            if members:
                yield from self.row(members)

    def row(self, members):
        about = json.loads(members.pop("json"))
        if self.gone.get(about["triplet_id"], -1) > about["export_epoch"]:
            return
        images = {end.partition(".")[0]: content for end, content in members.items()}
        negatives = [images[f"neg{at}"] for at in range(len(about["hard_negatives"]))]
        yield {
            "about": about,
            "query": picture(images["query"]),
            "target": picture(images["target"]),
            "negatives": [picture(content) for content in negatives],
        }


def picture(content):
    return Image.open(io.BytesIO(content)).convert("RGB")


def main(folder):
    triplets, rows, pictures = Triplets(folder), 0, 0
    for row in triplets:
        assert row["about"]["hard_negatives"][0] == row["about"]["query_id"]
        rows += 1
        pictures += 2 + len(row["negatives"])
    assert rows == len(triplets), f"{rows} rows, and the manifest says {len(triplets)}"
    print(json.dumps({"rows": rows, "pictures": pictures}))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
