"""What truepair raises. Each message says what, where, the values and the next step."""


class TruepairError(ValueError):
    """Anything that the user can mend; the command line prints its message and exits with 1."""


class DataError(TruepairError):
    """A file, a table or an array does not hold what it should."""


class ConfigError(TruepairError):
    """An option is unknown, out of range or contradicts another."""


class CheckpointError(TruepairError):
    """A checkpoint is damaged or belongs to another run."""


class TrainingError(TruepairError):
    """Training cannot go on, for instance because the loss is no longer a number."""
