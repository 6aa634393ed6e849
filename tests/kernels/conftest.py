"""Where kernels run in these tests, and what a product may lose."""

import pytest
import torch

from deshi.kernels.triton_or_none import triton

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The interpreter cuts a float32 to bfloat16, a device rounds it.
EPS = {torch.bfloat16: 2**-8 if DEVICE == "cuda" else 2**-7, torch.float16: 2**-11}


def pytest_collection_modifyitems(items):
    """Every test here that asks for `device` runs kernels, and so needs Triton."""
    if triton is None:
        for item in items:
            if "device" in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.skip(reason="triton is not installed; pip install 'deshi[cuda]'"))


@pytest.fixture(scope="session")
def device() -> str:
    """cuda, or cpu under Triton's interpreter."""
    return DEVICE


@pytest.fixture(scope="session")
def within():
    """Holds a 16-bit result to a float64 one: each output within its own bound, plus the rounding of its type."""

    def check(got, exact, bound):
        assert got.shape == exact.shape
        error = (got.double().cpu() - exact).abs()
        allowed = bound + EPS[got.dtype] * exact.abs() + torch.finfo(got.dtype).tiny
        worst = (error / allowed).max().item()
        assert worst <= 1, f"{worst:.2f} times the stated bound, at most {error.max().item():.3g} off"

    return check
