"""Checks of settings that several classes share."""


def check_whole(*, least: int = 1, **values: int) -> None:
    """ValueError for a value that is not an integer of at least `least`; True is no integer."""
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
