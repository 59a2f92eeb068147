"""Retrieval and detection, measured."""
