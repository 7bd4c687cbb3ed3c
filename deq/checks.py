"""Checks of settings and inputs."""

from torch import Tensor


def check_whole(*, least: int = 1, **values: int) -> None:
    """Raise ValueError for a value that is not an integer of at least `least`; bool does not count as an integer."""
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")


def check_features(x: Tensor) -> None:
    """Raise ValueError for empty features: kernels differ in what they return for them."""
    if x.numel() == 0:
        raise ValueError(f"features must have at least one sample, position and channel, got the shape {tuple(x.shape)}")
