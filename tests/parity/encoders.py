"""Answers of the reference libraries, for kernels/tests/encoders.rs: tiny checkpoints of every family.

    python encoders.py OUT.json

A checkpoint is not stored but its recipe: files of settings, and per tensor the name and shape that
the library itself writes, with the range of its numbers. Number i of a tensor is
    center + spread·(2u − 1),  u = (mix(fnv1a(name) ^ seed, i) >> 40) / 2^24,
rounded to float32, where mix(x, i) is splitmix64's output for the state x + (i + 1)·0x9e3779b97f4a7c15.
Byte i of a picture is mix(seed, i) >> 56. The Rust side does the same (`tests/encoders/recipe.rs`).
"""

import json
import struct
import sys
import tempfile
from pathlib import Path

import numpy as np
import open_clip
import torch
import transformers as hf
from PIL import Image
from safetensors.torch import save_file
from timm.models.eva import Eva

GAMMA = 0x9E3779B97F4A7C15


def fnv1a(name):
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


def mix(state, count):
    with np.errstate(over="ignore"):
        z = np.uint64(state) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GAMMA)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def numbers(name, shape, center, spread, seed):
    u = (mix(fnv1a(name) ^ seed, int(np.prod(shape))) >> np.uint64(40)) / 2.0**24
    return torch.from_numpy((center + spread * (2 * u - 1)).astype(np.float32).reshape(shape))


def picture(height, width, seed):
    rgb = (mix(seed, 3 * height * width) >> np.uint64(56)).astype(np.uint8)
    return Image.fromarray(rgb.reshape(height, width, 3))


def span(name, shape):
    """Where a tensor's numbers lie: such that every part of the network matters."""
    last = name.rsplit(".", 1)[-1]
    if len(shape) == 1 and last == "weight":
        return 1.0, 0.5
    if last in ("lambda1", "gamma"):
        return 0.8, 0.4
    if len(shape) <= 1:
        return 0.0, 0.3
    if "embed" in name or "token" in name or "probe" in name:
        if "proj" not in name and "patch" not in name:
            return 0.0, 0.7
    return 0.0, (4.5 / np.prod(shape[1:])) ** 0.5


def recipe(shapes, seed):
    rows = []
    for name, shape in sorted(shapes.items()):
        center, spread = span(name, shape)
        rows.append([name, list(shape), center, float(np.float32(spread))])
    tensors = {name: numbers(name, shape, c, s, seed) for name, shape, c, s in rows}
    return rows, tensors


def shapes_on_disk(folder):
    file = (folder / "model.safetensors").read_bytes()
    header = json.loads(file[8 : 8 + struct.unpack("<Q", file[:8])[0]])
    return {n: t["shape"] for n, t in header.items() if n != "__metadata__" and t["dtype"] == "F32"}


def hub(model, seed):
    """The model with a recipe's weights, by the names that it is saved under."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        model.save_pretrained(folder)
        config = json.loads((folder / "config.json").read_text())
        rows, tensors = recipe(shapes_on_disk(folder), seed)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        kind = type(model)
        model, said = kind.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
        assert not said["missing_keys"] and not said["unexpected_keys"], said
    return model.eval(), {"config.json": config}, rows


def plain(model, seed, prefix=""):
    shapes = {prefix + n: list(t.shape) for n, t in model.state_dict().items()}
    rows, tensors = recipe(shapes, seed)
    model.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items()})
    return model.eval(), rows


def round_half_even(x):
    return int(round(x))


def prepared(image, p):
    """As Pillow and the libraries' own code do it."""
    width, height = image.size
    if "shortest" in p:
        side = p["shortest"]
        short, long = min(width, height), max(width, height)
        other = int(side * long / short)
        size = (side, other) if width <= height else (other, side)
    else:
        size = (p["exact"][1], p["exact"][0])
    image = image.resize(size, Image.Resampling.BICUBIC)
    ch, cw = p["crop"]
    middle = round_half_even if p.get("to_even") else int
    left, top = middle((image.width - cw) / 2), middle((image.height - ch) / 2)
    image = image.crop((left, top, left + cw, top + ch))
    x = np.asarray(image).astype(np.float32) * np.float32(1 / 255)
    x = (x - np.array(p["mean"], np.float32)) / np.array(p["std"], np.float32)
    return torch.from_numpy(x.transpose(2, 0, 1).copy())


def to_hub(p):
    """`preprocessor_config.json` of a preparation."""
    exact = p.get("exact")
    size = {"height": exact[0], "width": exact[1]} if exact else {"shortest_edge": p["shortest"]}
    crop = {"height": p["crop"][0], "width": p["crop"][1]}
    return {"do_resize": True, "size": size, "resample": 3, "do_center_crop": exact is None,
            "crop_size": crop, "do_rescale": True, "rescale_factor": 1 / 255,
            "do_normalize": True, "image_mean": p["mean"], "image_std": p["std"]}


CLIP = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
HALF = {"mean": [0.5] * 3, "std": [0.5] * 3}
SIZES = [(61, 47), (33, 80), (150, 149)]


def image_case(name, run, files, rows, p, seed, file="preprocessor_config.json"):
    if file == "preprocessor_config.json":
        files = {**files, file: to_hub(p)}
    pictures = [[h, w, seed + i] for i, (h, w) in enumerate(SIZES)]
    x = torch.stack([prepared(picture(*one), p) for one in pictures])
    return case(name, files, rows, seed, run(x), pictures=pictures)


def text_case(name, run, files, rows, seed, vocabulary, longest, end=None):
    texts = []
    for i, length in enumerate([3, longest, 5, 1 if end is None else 2]):
        ids = [int(x % np.uint64(vocabulary - 1)) for x in mix(seed + i, length)]
        texts.append(ids[: length - 1] + [end] if end is not None else ids)
    outputs = torch.cat([run(torch.tensor([ids])) for ids in texts])
    return case(name, files, rows, seed, outputs, texts=texts)


def case(name, files, rows, seed, outputs, **inputs):
    outputs = [[float(f"{x:.8g}") for x in row] for row in outputs.tolist()]
    return {"name": name, "files": files, "seed": seed, "tensors": rows, **inputs, "vectors": outputs}


def clip():
    config = hf.CLIPConfig(
        vision_config=dict(hidden_size=128, intermediate_size=200, num_hidden_layers=2, patch_size=8,
                           num_attention_heads=2, image_size=40),
        text_config=dict(hidden_size=96, intermediate_size=130, num_hidden_layers=2, vocab_size=99,
                         num_attention_heads=3, max_position_embeddings=20, eos_token_id=98,
                         bos_token_id=97, pad_token_id=98),
        projection_dim=24)
    model, files, rows = hub(hf.CLIPModel(config), 1)
    p = dict(CLIP, shortest=40, crop=[40, 40])

    def image(x):
        return model.visual_projection(model.vision_model(pixel_values=x).pooler_output)

    def text(ids):
        return model.text_projection(model.text_model(input_ids=ids).pooler_output)

    yield image_case("clip-image", image, files, rows, p, 1)
    yield text_case("clip-text", text, files, rows, 1, 98, 20, end=98)


def dinov2():
    base = dict(num_hidden_layers=2, patch_size=14, hidden_act="gelu")
    kinds = [
        ("dinov2", hf.Dinov2Config(hidden_size=48, num_attention_heads=3, image_size=98, **base),
         hf.Dinov2Model, dict(IMAGENET, shortest=90, crop=[56, 84])),
        ("dinov2-giant", hf.Dinov2Config(hidden_size=128, num_attention_heads=2, image_size=70,
                                         use_swiglu_ffn=True, **base),
         hf.Dinov2Model, dict(IMAGENET, shortest=80, crop=[70, 70])),
        ("dinov2-registers",
         hf.Dinov2WithRegistersConfig(hidden_size=64, num_attention_heads=1, image_size=98,
                                      num_register_tokens=3, **base),
         hf.Dinov2WithRegistersModel, dict(IMAGENET, shortest=51, crop=[42, 28])),
    ]
    for seed, (name, config, kind, p) in enumerate(kinds, 10):
        model, files, rows = hub(kind(config), seed)
        yield image_case(name, lambda x: model(x).last_hidden_state[:, 0], files, rows, p, seed)


def siglip():
    own = dict(hidden_size=144, intermediate_size=150, num_hidden_layers=2, num_attention_heads=2,
               image_size=45, patch_size=14)
    text = dict(hidden_size=24, intermediate_size=30, num_hidden_layers=1, num_attention_heads=1,
                vocab_size=50, max_position_embeddings=8)
    p = dict(HALF, exact=[45, 45], crop=[45, 45])
    both = hf.SiglipModel(hf.SiglipConfig(vision_config=own, text_config=text))
    both, files, rows = hub(both, 20)
    yield image_case("siglip", lambda x: both.vision_model(x).pooler_output, files, rows, p, 20)
    model, files, rows = hub(hf.SiglipVisionModel(hf.SiglipVisionConfig(**own)), 21)
    yield image_case("siglip-alone", lambda x: model(x).pooler_output, files, rows, p, 21)


def eva():
    second = dict(mlp_ratio=8 / 3, qkv_fused=False, swiglu_mlp=True, scale_mlp=True,
                  scale_attn_inner=True, use_rot_pos_emb=True, ref_feat_shape=(16, 16))
    kinds = [
        ("eva02", "eva02_base_patch16_clip_224",
         dict(img_size=(32, 48), patch_size=8, embed_dim=128, num_heads=2, **second)),
        ("eva-giant", "eva_giant_patch14_clip_224",
         dict(img_size=42, patch_size=14, embed_dim=176, num_heads=2, mlp_ratio=2.0)),
        ("eva02-enormous", "eva02_enormous_patch14_clip_224",
         dict(img_size=28, patch_size=14, embed_dim=224, num_heads=2, mlp_ratio=1.5,
              use_post_norm=True)),
    ]
    for seed, (name, architecture, args) in enumerate(kinds, 30):
        args = dict(depth=2, **args)
        model, rows = plain(Eva(num_classes=20, global_pool="token", **args), seed)
        size = args["img_size"]
        size = [size, size] if isinstance(size, int) else list(size)
        files = {"config.json": {"architecture": architecture, "model_args": args,
                                 "pretrained_cfg": {**CLIP, "interpolation": "bicubic"}}}
        p = dict(CLIP, crop=size, to_even=True)
        p.update({"shortest": size[0]} if size[0] == size[1] else {"exact": size})
        yield image_case(name, model, files, rows, p, seed, file=None)

    args = dict(depth=2, img_size=40, patch_size=8, embed_dim=64, num_heads=1, **second)
    visual, rows = plain(Eva(num_classes=20, global_pool="token", **args), 40, "visual.trunk.")
    text_cfg = dict(context_length=12, vocab_size=77, width=96, heads=2, layers=2)
    text = open_clip.model._build_text_tower(20, open_clip.model.CLIPTextCfg(**text_cfg))
    text, more = plain(text, 40, "text.")
    config = {"model_cfg": {"embed_dim": 20, "text_cfg": text_cfg, "custom_text": True,
                            "vision_cfg": {"timm_model_name": "eva02_base_patch16_clip_224",
                                           "image_size": 40, "timm_model_args": args}},
              "preprocess_cfg": {**CLIP, "interpolation": "bicubic", "resize_mode": "shortest"}}
    files, rows = {"open_clip_config.json": config}, rows + more
    p = dict(CLIP, shortest=40, crop=[40, 40], to_even=True)
    yield image_case("open-clip-image", visual, files, rows, p, 40, file=None)

    def padded(ids):
        return text(torch.nn.functional.pad(ids, (0, 12 - ids.shape[1])))

    yield text_case("open-clip-text", padded, files, rows, 40, 76, 12, end=76)


def bert():
    config = hf.BertConfig(vocab_size=300, hidden_size=64, num_hidden_layers=2,
                           num_attention_heads=2, intermediate_size=100,
                           max_position_embeddings=40)
    model, files, rows = hub(hf.BertModel(config), 50)
    mean = {**files, "1_Pooling/config.json": {"pooling_mode_mean_tokens": True}}
    yield text_case("bert-mean", lambda x: model(x).last_hidden_state.mean(1), mean, rows, 50, 300, 33)
    first = {**files, "1_Pooling/config.json": {"pooling_mode_cls_token": True}}
    yield text_case("bert-cls", lambda x: model(x).last_hidden_state[:, 0], first, rows, 50, 300, 40)


def main():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with torch.no_grad():
        cases = [one for family in (clip, dinov2, siglip, eva, bert) for one in family()]
    lines = ",\n".join(json.dumps(one, separators=(",", ":")) for one in cases)
    Path(sys.argv[1]).write_text(f"[\n{lines}\n]\n")
    for one in cases:
        print(one["name"], len(one["tensors"]), "tensors", one["vectors"][0][:3])


main()
