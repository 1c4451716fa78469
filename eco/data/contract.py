"""What every kind of training data has in common."""

from eco.config import Config, setting


class DataConfig(Config):
    """Common to text and puzzles."""

    seed: int = setting(0, "Chooses the order of the samples.", ge=0)
    workers: int = setting(1, "Threads that read batches ahead; 0 reads each on demand.", flat="num-workers", ge=0)
