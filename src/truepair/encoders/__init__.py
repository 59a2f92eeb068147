"""One modality in, vectors out."""
