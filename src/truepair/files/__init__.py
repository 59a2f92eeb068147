"""Files of runs, audits and feature stores: replaced atomically, checked when read."""
