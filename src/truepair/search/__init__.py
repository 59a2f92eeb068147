"""Search: from a text to images and back, with the probability that a hit is one."""
