"""A vision-language model with random weights, 2 layers of 64, where `transformers serve` looks for
models: vlm.py HUB. HUB is what HF_HUB_CACHE names then; the model is everpair/tiny-vlm.

A token is a byte, so that a request's tokens can be counted elsewhere. Weights are large, so that what it
says depends on every image and on their order."""

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

REVISION = "0" * 40
# With the usual 0.02 next to nothing of an image gets through to the words.
DEVIATION = 0.4
# The form of Qwen2-VL.
TEMPLATE = """{% for m in messages %}<|im_start|>{{ m.role }}
{% for part in m.content %}\
{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}\
{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
    "<|image_pad|>", "<|video_pad|>",
]


def main():
    repo = Path(sys.argv[1]) / "models--everpair--tiny-vlm"
    folder = repo / "snapshots" / REVISION
    folder.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(REVISION)

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(initial_alphabet=alphabet, special_tokens=SPECIAL)
    tokenizer.train_from_iterator([], trainer)
    words = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>",
        additional_special_tokens=SPECIAL,
    )
    number = {name: words.convert_tokens_to_ids(name) for name in SPECIAL}
    # At most 16 tokens an image.
    images = Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=112 * 112)
    processor = Qwen2VLProcessor(images, words, Qwen2VLVideoProcessor(), chat_template=TEMPLATE)
    processor.save_pretrained(folder)

    torch.manual_seed(1)
    config = Qwen2VLConfig(
        text_config=dict(
            initializer_range=DEVIATION,
            vocab_size=len(words), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=8192,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
            bos_token_id=None, eos_token_id=number["<|im_end|>"],
            pad_token_id=number["<|endoftext|>"],
        ),
        vision_config=dict(
            initializer_range=DEVIATION, depth=2, embed_dim=64, hidden_size=64, num_heads=4,
            mlp_ratio=2,
        ),
        image_token_id=number["<|image_pad|>"], video_token_id=number["<|video_pad|>"],
        vision_start_token_id=number["<|vision_start|>"],
        vision_end_token_id=number["<|vision_end|>"],
    )
    model = Qwen2VLForConditionalGeneration(config)
    # Of all tokens alike, so that some answers end before they are cut.
    model.generation_config.update(do_sample=True, top_k=len(words))
    model.save_pretrained(folder)


main()
