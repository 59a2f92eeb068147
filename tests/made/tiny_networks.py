"""Tiny networks with random weights, saved to disk by transformers."""

from pathlib import Path

import pytest
import torch
from embedding_samples import WORDS

transformers = pytest.importorskip("transformers", reason="needs the extra hf")


def save_tokenizer(folder, **special):
    """Words in lower case, split at spaces; ``template`` puts tokens around them."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    template = special.pop("template")
    names = list(dict.fromkeys(special.values()))
    vocabulary = {word: number for number, word in enumerate([*WORDS, *names])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=special["unk_token"]))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    used = [(name, vocabulary[name]) for name in names if name in template]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=used)
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return vocabulary


def save_clip(folder: Path) -> str:
    """A CLIP network of two towers; where it is."""
    vocabulary = save_tokenizer(
        folder, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>", template="<s> $A </s>"
    )
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = sizes | {"vocab_size": len(vocabulary), "max_position_embeddings": 8, "eos_token_id": vocabulary["</s>"]}
    vision = sizes | {"image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    transformers.CLIPModel(config).save_pretrained(folder)
    sides = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    transformers.CLIPImageProcessorPil(**sides).save_pretrained(folder)
    return str(folder)
