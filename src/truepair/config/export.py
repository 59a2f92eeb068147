"""The options of an export; imports nothing heavy, so that ``--help`` answers at once."""

from __future__ import annotations

from typing import Literal, TypeAlias

Format: TypeAlias = Literal["onnx", "sentence-transformers", "hf"]
"""Forms that other tools load: ONNX files, a folder of sentence-transformers, networks of transformers with heads."""
