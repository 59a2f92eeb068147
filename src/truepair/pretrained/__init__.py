"""Networks that were trained elsewhere: loading them, and what they read of pictures and captions."""
