"""A Comparison whose learning rates are chosen on several seeds: where one seed in three gets stuck, one is a lottery."""

from pydantic import Field, model_validator

from bench.spec import Comparison


class Tuned(Comparison):
    """Each rate is tried at `trial_seed` and the seeds that follow, `trial_seeds` of them; the mean of their scores decides."""

    trial_seeds: int = Field(default=2, gt=0)

    @model_validator(mode="after")
    def _apart(self) -> "Tuned":
        both = sorted(set(seeds_of(self)) & set(self.seeds))
        if both:
            raise ValueError(f"trial seed {both[0]} is also a final seed: a rate must not be chosen on a run it is judged by")
        return self


def seeds_of(comparison: Comparison) -> tuple[int, ...]:
    """The seeds that every rate is tried at."""
    many = comparison.trial_seeds if isinstance(comparison, Tuned) else 1
    return tuple(range(comparison.trial_seed, comparison.trial_seed + many))
