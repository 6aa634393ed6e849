"""Where kernels run in these tests, and what a product may lose."""

import pytest
import torch

from deshi.kernels.triton_or_none import triton

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The interpreter cuts a float32 to bfloat16, a device rounds it.
EPS = {
    torch.bfloat16: 2**-8 if DEVICE == "cuda" else 2**-7,
    torch.float16: 2**-11,
    torch.float32: 2**-24,
}


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
def share_of_bound():
    """How much of its bound a result uses, at its worst output: that of the kernel, plus the rounding of its type."""

    def share(got, exact, bound):
        assert got.shape == exact.shape
        allowed = bound + EPS[got.dtype] * exact.abs() + torch.finfo(got.dtype).tiny
        return ((got.double().cpu() - exact).abs() / allowed).max().item()

    return share


@pytest.fixture(scope="session")
def opchecked():
    """PyTorch's own tests of an operator: schema, autograd registration, fake kernel, dynamic shapes."""

    def check(operator, *given):
        return set(torch.library.opcheck(operator, given).values()) == {"SUCCESS"}

    return check
