"""Int8 round to nearest against the bound that rounding promises and against numpy in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from deshi.kernels.int8 import dequantize_int8, quantize_int8

MATRICES = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12),
    elements=st.floats(-(2.0**99), 2.0**99, width=32),
)


@settings(max_examples=200, deadline=None)
@given(MATRICES)
def test_the_error_is_at_most_half_a_step(weight):
    quantized, scale = quantize_int8(torch.from_numpy(weight))
    assert quantized.dtype == torch.int8 and quantized.shape == weight.shape
    assert scale.dtype == torch.float32 and scale.shape == (len(weight), 1)
    error = np.abs(weight.astype(np.float64) - dequantize_int8(quantized, scale).numpy().astype(np.float64))
    assert (error <= scale.double().numpy() * (0.5 + 1e-5)).all()  # 127 float32 ulps of slack


@settings(max_examples=50, deadline=None)
@given(MATRICES)
def test_it_is_symmetric(weight):
    quantized, scale = quantize_int8(torch.from_numpy(weight))
    negated, same_scale = quantize_int8(torch.from_numpy(-weight))
    assert torch.equal(negated.int(), -quantized.int()) and torch.equal(scale, same_scale)
    assert int(quantized.min()) >= -127


def test_against_numpy():
    weight = np.random.default_rng(0).normal(size=(5, 40)).astype(np.float32)
    quantized, scale = quantize_int8(torch.from_numpy(weight))
    step = np.abs(weight.astype(np.float64)).max(axis=1, keepdims=True) / 127
    np.testing.assert_allclose(scale.numpy(), step, rtol=1e-6)
    np.testing.assert_array_equal(quantized.numpy(), np.rint(weight / step))
    assert np.abs(quantized.numpy()).max(axis=1).tolist() == [127] * 5


def test_zeros_stay_zeros_and_tiny_rows_keep_their_bound():
    weight = torch.tensor([[0.0, 0.0], [1e-44, -3e-45], [1.0, -1.0]])
    quantized, scale = quantize_int8(weight)
    assert quantized.tolist() == [[0, 0], [0, 0], [127, -127]]
    assert bool(torch.isfinite(scale).all()) and float(scale.min()) > 0
    assert dequantize_int8(quantized, scale)[0].tolist() == [0.0, 0.0]


def test_half_precision_weights_are_taken():
    weight = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    quantized, scale = quantize_int8(weight)
    assert float((weight.float() - dequantize_int8(quantized, scale)).abs().max()) <= float(scale.max()) * 0.50001


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_int8_cannot_express_is_refused(bad):
    with pytest.raises(ValueError, match="NaN or infinity"):
        quantize_int8(torch.tensor([[1.0, bad]]))


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\[out, in\]"):
        quantize_int8(torch.ones(3))
    with pytest.raises(ValueError, match="int64"):
        quantize_int8(torch.ones(2, 2, dtype=torch.int64))
