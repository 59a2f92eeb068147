"""The papers' figures from finished runs: one page, and a file for each figure."""
