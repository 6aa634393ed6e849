"""Bad input is refused before anything is launched: one sentence with the value, the rule and the fix."""

from __future__ import annotations


def require(holds: bool, otherwise: str) -> None:
    """Raises ValueError(otherwise) unless it holds."""
    if not holds:
        raise ValueError(otherwise)
