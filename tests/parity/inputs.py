"""What Pillow and tokenizers give, for kernels/tests/inputs.rs: pictures prepared, texts as ids.

    python inputs.py OUT.json [TOKENIZER.json ...]

Pictures are those of encoders.py's recipe; of a prepared one the sha256 is kept, and its first bytes.
The two tokenizers are made here, of a few sentences; others, such as real ones, may be named.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import trainers

FILTERS = {1: Image.Resampling.LANCZOS, 2: Image.Resampling.BILINEAR, 3: Image.Resampling.BICUBIC}


def picture(height, width, seed):
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, 3 * height * width + 1, dtype=np.uint64) * np.uint64(
            0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return Image.fromarray((z >> np.uint64(56)).astype(np.uint8).reshape(height, width, 3))


def pictures():
    """[height, width, seed, size, crop, filter]; one size is that of the shorter side."""
    cases, seed = [], 0
    for height, width in [(480, 640), (640, 480), (224, 224), (223, 225), (37, 500), (1200, 900),
                          (256, 341), (17, 23), (1, 1), (3, 1000)]:
        for size, crop in [(224, [224, 224]), (256, [224, 224]), (55, [31, 54]), ([64, 48], [64, 48])]:
            if isinstance(size, int) and max(height, width) / min(height, width) > 30:
                continue
            seed += 1
            cases.append([height, width, seed, size, crop, 3 if seed % 5 else seed // 5 % 3 + 1])
    return cases


def prepare(height, width, seed, size, crop, filter):
    image = picture(height, width, seed)
    if isinstance(size, int):
        short, long = min(width, height), max(width, height)
        other = int(size * long / short)
        target = (size, other) if width <= height else (other, size)
    else:
        target = (size[1], size[0])
    image = image.resize(target, FILTERS[filter])
    left, top = (image.width - crop[1]) // 2, (image.height - crop[0]) // 2
    rgb = np.asarray(image.crop((left, top, left + crop[1], top + crop[0]))).tobytes()
    return hashlib.sha256(rgb).hexdigest(), list(rgb[:12])


CORPUS = ["a red bicycle leaning against an old brick wall", "two cats sleeping on the sofa",
          "the girl's dog won't jump over the low wooden fence", "it's 12:30 at the station",
          "Straße, café, naïve, Ελλάδα, Москва, 北京", "mountains under a cloudless blue sky"] * 3

TEXTS = [
    "", " ", "a red bicycle", "A  Red\tBICYCLE\n leaning", "don't, won't; it's the girl's: they'll've",
    "café CAFÉ cafe\u0301 naïve Straße İstanbul ΣΊΣΥΦΟΣ", "北京 is 東京 not 서울, и Москва", "12:30, 3.14 ½ ٣ Ⅷ",
    "emoji 😀👍🏽 and\u200bzero\u00a0width\u3000space", "[CLS] inside [MASK]text[SEP] <|endoftext|>x<|startoftext|>",
    "nul\x00l \ufffd\x07bell \u00ad soft", "!!!'s ''re «quoted» —dash— “q” ¿qué? $5 & 10% a_b-c/d\\e ~^`|<>=+",
    "x" * 120, "word " * 100, "ends with spaces   ", "'", "''", "a'", "ﬁne ﬂow ﾊﾝｶｸ Ａｌｐｈａ",
    "हिन्दी नमस्ते ไทย עִבְרִית العربية", "\u1e9b\u0323 \u212b Å \u0344", "𝒳𝕐 𐐷 🇩🇪 ☃ ©®™ №5",
]


def wordpiece():
    t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer(lowercase=True)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    t.train_from_iterator(CORPUS, trainers.WordPieceTrainer(
        vocab_size=260, special_tokens=special, show_progress=False))
    t.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return t.to_str()


def clip():
    t = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>",
                             continuing_subword_prefix=""))
    t.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    t.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "removed", invert=True),
         pre_tokenizers.ByteLevel(add_prefix_space=False)])
    t.decoder = decoders.ByteLevel()
    # As CLIP's own vocabulary is laid out: bytes, bytes that end a word, what pairs become, marks.
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=400, end_of_word_suffix="</w>", show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    merges = [tuple(m) for m in json.loads(t.to_str())["model"]["merges"]]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = letters + [c + "</w>" for c in letters] + [a + b for a, b in merges]
    words = list(dict.fromkeys(words)) + ["<|startoftext|>", "<|endoftext|>"]
    vocab = {word: id for id, word in enumerate(words)}
    t.model = models.BPE(vocab, merges, unk_token="<|endoftext|>", end_of_word_suffix="</w>",
                         continuing_subword_prefix="")
    t.add_special_tokens(["<|startoftext|>", "<|endoftext|>"])
    end, start = vocab["<|endoftext|>"], vocab["<|startoftext|>"]
    t.post_processor = processors.RobertaProcessing(
        ("<|endoftext|>", end), ("<|startoftext|>", start), trim_offsets=False,
        add_prefix_space=False)
    return t.to_str()


def texts(file, most):
    t = Tokenizer.from_str(file)
    t.no_padding()
    t.enable_truncation(most)
    return {"file": json.loads(file), "most": most, "vocabulary": t.get_vocab_size(),
            "texts": [[text, t.encode(text).ids] for text in TEXTS]}


def main():
    files = [(wordpiece(), 64), (clip(), 77)] + [(Path(f).read_text(), 77) for f in sys.argv[2:]]
    out = {"pictures": [[*one, *prepare(*one)] for one in pictures()],
           "tokenizers": [texts(*one) for one in files]}
    pictured = ",\n".join(json.dumps(p, separators=(",", ":")) for p in out["pictures"])
    tokenized = ",\n".join(json.dumps(t, separators=(",", ":")) for t in out["tokenizers"])
    Path(sys.argv[1]).write_text(
        f'{{"pictures":[\n{pictured}\n],\n"tokenizers":[\n{tokenized}\n]}}\n')


main()
