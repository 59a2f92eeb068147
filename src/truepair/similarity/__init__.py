"""Encoded images against encoded captions."""
