"""Checks of settings and inputs that several classes share."""

from torch import Tensor


def check_whole(*, least: int = 1, **values: int) -> None:
    """ValueError for a value that is not an integer of at least `least`; True is no integer."""
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")


def check_features(x: Tensor) -> None:
    """ValueError for features without a sample, a position or a channel: what they would give differs from kernel to kernel."""
    if x.numel() == 0:
        raise ValueError(f"features must have at least one sample, position and channel, got the shape {tuple(x.shape)}")
