"""Find the image–caption pairs that do not match, fix them, and train retrieval models that do not mind the rest."""

__version__ = "0.1.0"
