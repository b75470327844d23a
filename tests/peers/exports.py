"""Exports as the programs that they are made for see them, one JSON array per row, sorted.

    python exports.py truth ROOT EPOCH          DuckDB's word on triplets, images and contents
    python exports.py CONSUMER DIR              the same rows from an export

CONSUMER is hf, hf-streaming, hf-pyarrow, hf-pandas, webdataset, parquet-pyarrow, parquet-pandas,
parquet-datasets, megapairs or mmeb. A picture is shown as the sha256 of its pixels, so it must have
been decoded. A row that a `deleted-*.jsonl` says is gone is left out, as the card asks for.
"""

import glob
import hashlib
import io
import json
import os
import pathlib
import sys

import numpy
import PIL.Image

from delta_rows import duckdb_connection, literal

COLUMNS = [
    "triplet_id", "query_id", "target_id", "instructions", "audits", "hard_negatives", "channels",
    "scores", "description", "model", "prompt_version", "request_id", "query_content_id",
    "target_content_id", "epoch",
]  # fmt: skip
PROVENANCE = ["query_source", "query_licence", "target_source", "target_licence"]
FIELDS = COLUMNS + PROVENANCE


def pixels(image):
    if isinstance(image, dict):
        image = image["bytes"]
    if isinstance(image, (bytes, bytearray)):
        image = PIL.Image.open(io.BytesIO(image))
    assert isinstance(image, PIL.Image.Image), type(image)
    image = image.convert("RGB")
    return hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()


def plain(value):
    """Numpy's and pandas' containers as JSON's."""
    match value:
        case numpy.ndarray():
            return [plain(item) for item in value]
        case list() | tuple():
            return [plain(item) for item in value]
        case dict():
            return {key: plain(item) for key, item in value.items()}
        case numpy.generic():
            return plain(value.item())
        case float() if value != value:
            return None
        case _:
            return value


def shown(row, fields=FIELDS):
    pictures = [row["query_image"], row["target_image"], *row["negatives"]]
    return [plain(row[name]) for name in fields] + [pixels(image) for image in pictures]


def truth(root, epoch):
    page = json.loads(pathlib.Path(root, "_everpair/epochs", f"{epoch}.json").read_text())
    connection = duckdb_connection()
    for table in ["triplets", "images", "contents"]:
        path = literal(pathlib.Path(root, table).resolve())
        scan = f"delta_scan({path}, version => {page['tables'][table]})"
        connection.execute(f"CREATE VIEW {table} AS SELECT * FROM {scan}")
    query = "SELECT image_id, source, licence, image FROM images JOIN contents USING (content_id)"
    images = {row[0]: row[1:] for row in connection.execute(query).fetchall()}
    rows = connection.execute(f"SELECT {', '.join(COLUMNS)} FROM triplets").fetchall()
    for row in rows:
        row = dict(zip(COLUMNS, row))
        for end in ["query", "target"]:
            source, licence, image = images[row[f"{end}_id"]]
            row |= {f"{end}_source": source, f"{end}_licence": licence, f"{end}_image": image}
        row["negatives"] = [images[id][2] for id in row["hard_negatives"]]
        yield shown(row)


class Gone:
    """What the export's own words say has left."""

    def __init__(self, folder):
        self.epochs = {}
        for path in glob.glob(f"{folder}/deleted-*.jsonl"):
            for line in open(path):
                row = json.loads(line)
                held = self.epochs.get(row["triplet_id"], -1)
                self.epochs[row["triplet_id"]] = max(held, row["epoch"])

    def __contains__(self, row):
        return self.epochs.get(row["triplet_id"], -1) > row["export_epoch"]


def hf(folder, streaming=False):
    import datasets

    rows = datasets.load_dataset(str(folder), split="train", streaming=streaming)
    features = rows.features
    assert isinstance(features["query_image"], datasets.Image), features
    assert isinstance(features["negatives"].feature, datasets.Image), features
    return (shown(row) for row in rows if row not in Gone("."))


def hf_pyarrow(folder):
    import pyarrow.dataset

    rows = pyarrow.dataset.dataset("data", format="parquet").to_table().to_pylist()
    return (shown(row) for row in rows if row not in Gone("."))


def hf_pandas(folder):
    import pandas

    rows = pandas.read_parquet("data").to_dict("records")
    return (shown(row) for row in rows if row not in Gone("."))


def webdataset(folder):
    import webdataset as wds

    shards = wds.WebDataset(sorted(glob.glob("data/*.tar")), shardshuffle=False, empty_check=False)
    for sample in shards.decode("pil"):
        row = sample["json"]
        assert sample["__key__"] == row["triplet_id"]
        if row in Gone("."):
            continue
        row |= {"query_image": sample["query.jpg"], "target_image": sample["target.jpg"]}
        count = len(row["hard_negatives"])
        row["negatives"] = [sample[f"neg{at}.jpg"] for at in range(count)]
        yield shown(row)


def tables(read):
    """Rows of a parquet export, put together from its tables."""
    contents = {row["content_id"]: row["image"] for row in read("contents")}
    images = {row["image_id"]: row for row in read("images")}
    for row in read("triplets"):
        for end in ["query", "target"]:
            image = images[row[f"{end}_id"]]
            row |= {f"{end}_{name}": image[name] for name in ["source", "licence"]}
            row[f"{end}_image"] = contents[image["content_id"]]
        row["negatives"] = [contents[images[id]["content_id"]] for id in row["hard_negatives"]]
        yield shown(row)


def parquet_pyarrow(folder):
    import pyarrow.parquet

    return tables(lambda table: pyarrow.parquet.read_table(table).to_pylist())


def parquet_pandas(folder):
    import pandas

    return tables(lambda table: pandas.read_parquet(table).to_dict("records"))


def parquet_datasets(folder):
    import datasets

    return tables(lambda table: datasets.load_dataset(str(folder), table, split="train"))


def from_paths(of, row, images):
    return [row["triplet_id"], *of, *[pixels(PIL.Image.open(path)) for path in images]]


def megapairs(folder):
    for path in sorted(glob.glob("data/*.jsonl")):
        for line in open(path):
            row = json.loads(line)
            if row not in Gone("."):
                yield from_paths([row["q_text"]], row, [row["q_img"], row["t_img"], *row["hns"]])


def mmeb(folder):
    import datasets

    rows = datasets.load_dataset(str(folder), "everpair", split="original")
    for row in rows:
        if row in Gone("."):
            continue
        images = [row["qry_image_path"], row["pos_image_path"], row["neg_image_path"]]
        yield from_paths([row["qry"].split(": ", 1)[1]], row, images)


def main(arguments):
    match arguments:
        case ["truth", root, epoch]:
            rows = truth(root, epoch)
        case [consumer, folder]:
            consumers = {
                "hf": hf,
                "hf-streaming": lambda folder: hf(folder, streaming=True),
                "hf-pyarrow": hf_pyarrow,
                "hf-pandas": hf_pandas,
                "webdataset": webdataset,
                "parquet-pyarrow": parquet_pyarrow,
                "parquet-pandas": parquet_pandas,
                "parquet-datasets": parquet_datasets,
                "megapairs": megapairs,
                "mmeb": mmeb,
            }
            folder = pathlib.Path(folder).resolve()
            os.chdir(folder)
            rows = consumers[consumer](folder)
        case _:
            sys.exit(__doc__)
    for line in sorted(json.dumps(row, sort_keys=True) for row in rows):
        print(line)


if __name__ == "__main__":
    main(sys.argv[1:])
