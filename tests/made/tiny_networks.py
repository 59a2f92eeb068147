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


def save_siglip(folder: Path) -> str:
    """A SigLIP network, whose captions are padded to one length; where it is."""
    return save_family(folder, "siglip")


def save_bert(folder: Path) -> str:
    """A network that reads captions alone; where it is."""
    vocabulary = save_tokenizer(
        folder, cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]", template="[CLS] $A [SEP]"
    )
    torch.manual_seed(2)
    config = transformers.BertConfig(vocab_size=len(vocabulary), **_SIZES, max_position_embeddings=10)
    transformers.BertModel(config).save_pretrained(folder)
    return str(folder)


_SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
_VISION = _SIZES | {"image_size": 32, "patch_size": 8}
_ALIGN = {"image_size": 32, "hidden_dim": 16, "width_coefficient": 0.1, "depth_coefficient": 0.1}
FAMILIES = {
    "siglip": ("Siglip", {}, _VISION, {}),
    "siglip2": ("Siglip2", {"projection_size": 16}, _SIZES | {"patch_size": 8, "num_patches": 16}, {}),
    "metaclip_2": ("MetaClip2", {}, _VISION, {"projection_dim": 12}),
    "altclip": ("AltCLIP", {"project_dim": 12}, _VISION, {"projection_dim": 12}),
    "chinese_clip": ("ChineseCLIP", {}, _VISION, {"projection_dim": 12}),
    "clipseg": ("CLIPSeg", {}, _VISION, {"projection_dim": 12}),
    "align": ("Align", {}, _ALIGN, {"projection_dim": 32}),
}
"""Networks with an image side and a text side: name of their classes, options of text, vision and both."""


def save_family(folder: Path, kind: str) -> str:
    """A network of one of `FAMILIES`; where it is."""
    classes, of_text, vision, of_both = FAMILIES[kind]
    template = "$A </s>" if kind.startswith("siglip") else "<s> $A </s>"
    named = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>" if kind == "siglip" else "<pad>"}
    vocabulary = save_tokenizer(
        folder, **({} if "<s>" not in template else {"bos_token": "<s>"}), **named, template=template
    )
    ids = {"pad_token_id": vocabulary[named["pad_token"]], "eos_token_id": vocabulary["</s>"]}
    text = _SIZES | {"vocab_size": len(vocabulary), "max_position_embeddings": 8} | ids | of_text
    if kind == "altclip":
        text["max_position_embeddings"] += ids["pad_token_id"] + 1  # as RoBERTa counts
    torch.manual_seed(1)
    config = getattr(transformers, f"{classes}Config")(text_config=text, vision_config=vision, **of_both)
    getattr(transformers, f"{classes}Model")(config).save_pretrained(folder)
    _processor(kind).save_pretrained(folder)
    return str(folder)


def _processor(kind: str):
    if kind == "siglip2":
        return transformers.Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16)
    if kind == "siglip":
        return transformers.SiglipImageProcessorPil(size={"height": 32, "width": 32})
    return transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
