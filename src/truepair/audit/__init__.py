"""Which pairs do not match, and what to do about them."""
