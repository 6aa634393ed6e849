"""A layer's tensors and config.json: there and back, against compressed-tensors itself, and what is refused."""

import copy

import pytest
import torch
from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationConfig

from deshi.kernels.compressed_tensors import (
    Scheme,
    compress,
    config_of,
    decompress,
    is_ignored,
    read_config,
    scheme_for,
)
from deshi.kernels.round_to_nearest import Format, quantize

SCHEMES = [
    Scheme(weights=Format(bits=4, group_size=32)),
    Scheme(weights=Format(bits=4, group_size=None)),
    Scheme(weights=Format(bits=4, group_size=64, symmetric=False)),
    Scheme(weights=Format(bits=8)),
    Scheme(weights=Format(bits=8, group_size=128, symmetric=False)),
    Scheme(weights=Format(bits=8), int8_activations=True),
]


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: f"{scheme.name}-{scheme.weights}")
def test_there_and_back(scheme):
    weight = torch.randn(11, 128, generator=torch.Generator().manual_seed(0))
    tensors = compress(weight, scheme, torch.bfloat16)
    back, made = decompress(tensors, scheme), quantize(weight, scheme.weights, scale_dtype=torch.bfloat16)
    assert torch.equal(back.values, made.values) and torch.equal(back.scale, made.scale)
    assert set(tensors) == set(scheme.tensors)
    if made.zero_point is not None:
        assert torch.equal(back.zero_point, made.zero_point)
    config = config_of(scheme, ["lm_head"])
    assert read_config(config) == (scheme, ("lm_head",))
    theirs = QuantizationConfig.model_validate(config)  # the package's own schema
    if not scheme.int8_activations:
        args = theirs.config_groups["group_0"]
        read = PackedQuantizationCompressor.decompress(tensors, args)
        assert torch.equal(read["weight"], back.dequantized())


def test_the_largest_group_that_divides_all_widths():
    assert scheme_for("w4a16", [256, 384]).weights.group_size == 128
    assert scheme_for("w4a16", [576, 1536]).weights.group_size == 64
    assert scheme_for("w4a16", [96, 128]).weights.group_size == 32
    assert scheme_for("w4a16", [100]).weights.group_size is None
    assert scheme_for("w8a8", [100]) == Scheme(weights=Format(bits=8), int8_activations=True)
    with pytest.raises(ValueError, match="'w2a16' is not known; use w4a16, w8a16 or w8a8"):
        scheme_for("w2a16", [128])


def test_layers_are_ignored_by_name_or_pattern():
    assert is_ignored("lm_head", ["lm_head"]) and not is_ignored("model.lm_head", ["lm_head"])
    assert is_ignored("model.layers.3.mlp.gate", [r"re:.*mlp\.gate$"])


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("quant_method",), "gptq", "quant_method of quantization_config is 'gptq'"),
        (("format",), "marlin-24", "'marlin-24'"),
        (("config_groups", "group_0", "weights", "num_bits"), 3, "num_bits"),
        (("config_groups", "group_0", "weights", "actorder"), "group", "actorder"),
        (("config_groups", "group_0", "weights", "type"), "float", "'float'"),
        (("config_groups", "group_0", "targets"), ["re:.*q_proj"], "targets"),
        (("config_groups", "group_1"), {}, "number of config_groups"),
        (("config_groups", "group_0", "input_activations"), {"num_bits": 8, "type": "float"}, "input_activations"),
    ],
)
def test_what_the_kernels_do_not_run_is_refused(path, value, says):
    config = copy.deepcopy(config_of(SCHEMES[0], []))
    at = config
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    with pytest.raises(ValueError, match=says):
        read_config(config)


def test_a_layer_that_is_not_whole_is_refused():
    tensors = compress(torch.randn(8, 64), SCHEMES[0], torch.float32)
    with pytest.raises(ValueError, match="w4a16 lacks 'weight_scale'"):
        decompress({key: value for key, value in tensors.items() if key != "weight_scale"}, SCHEMES[0])
    with pytest.raises(ValueError, match=r"a weight of \[8, 64\] has 2 scales a row"):
        decompress(tensors | {"weight_scale": torch.ones(8, 1)}, SCHEMES[0])
