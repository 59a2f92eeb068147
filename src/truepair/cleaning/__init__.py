"""What becomes of each pair, and the copy of a corpus that follows: one writer a kind of source."""
