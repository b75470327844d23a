"""CLIP's own vocabulary, which OpenCLIP carries, as the hub's `tokenizer.json`: clip_tokenizer.py OUT"""

import gzip
import sys
from pathlib import Path

import open_clip.tokenizer as clip
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

file = Path(clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
lines = gzip.open(file).read().decode().split("\n")
merges = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
letters = list(clip.bytes_to_unicode().values())
words = letters + [letter + "</w>" for letter in letters] + ["".join(merge) for merge in merges]
words += ["<|startoftext|>", "<|endoftext|>"]
vocab = {word: id for id, word in enumerate(words)}
t = Tokenizer(models.BPE(vocab, merges, unk_token="<|endoftext|>", end_of_word_suffix="</w>",
                         continuing_subword_prefix=""))
t.normalizer = normalizers.Sequence(
    [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
t.pre_tokenizer = pre_tokenizers.Sequence(
    [pre_tokenizers.Split(Regex(pattern), "removed", invert=True),
     pre_tokenizers.ByteLevel(add_prefix_space=False)])
t.add_special_tokens(["<|startoftext|>", "<|endoftext|>"])
t.post_processor = processors.RobertaProcessing(
    ("<|endoftext|>", 49407), ("<|startoftext|>", 49406), trim_offsets=False, add_prefix_space=False)
t.save(sys.argv[1])
