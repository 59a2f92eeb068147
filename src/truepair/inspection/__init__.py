"""A look inside a trained run: what its shared and exclusive codes hold."""
