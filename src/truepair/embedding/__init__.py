"""Frozen encoders over pictures and captions: from files to a folder of features."""
