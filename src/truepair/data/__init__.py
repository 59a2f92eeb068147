"""Pairs in: files, tables, corpora, noise."""
