"""What the store can be told."""

from eco.config import Config, setting


class StoreConfig(Config):
    """How much is kept, what counts as said before, and how soon what is old fades."""

    per_task: int = setting(4, "Rows of a task that are kept; the newest stay.", gt=0)
    total: int = setting(100_000, "Rows that are kept in all; the newest stay.", gt=0)
    near_duplicate: float = setting(
        0.8, "An answer to the same task with this share of token shingles in common is no new one.", gt=0, le=1
    )
    ngram: int = setting(8, "So many words in a row in common with a held-out task are contamination.", gt=2)
    half_life: float = setting(2.0, "Rounds after which a row is drawn half as often.", gt=0)
