"""Schedules of shapes: no round too large, every shape legal, the parameters those of real models."""

from dataclasses import replace

import pytest
from transformers import AutoConfig

from deshi.jobs.stages.prune_schedule import AXES, Shape, check_goal, prune_schedule, shape_of

START = Shape(layers=30, ffn=1536, kv_groups=3, hidden=576, heads_per_group=3, head_dim=64, heads_divide_hidden=True)
SMALL = replace(START, layers=12, ffn=512, kv_groups=1, hidden=288)


def test_a_cut_of_less_than_half_is_one_round():
    goal = replace(START, layers=20)
    assert prune_schedule(START, goal) == (goal,)
    assert prune_schedule(START, START) == (START,)


@pytest.mark.parametrize("most", [0.3, 0.5, 0.7])
def test_rounds_are_small_legal_and_end_at_the_goal(most):
    rounds = prune_schedule(START, SMALL, most=most)
    assert rounds[-1] == SMALL and len(rounds) > 1
    for old, new in zip((START, *rounds), rounds, strict=False):
        assert new.parameters >= (1 - most) * old.parameters
        assert all(getattr(new, axis) <= getattr(old, axis) for axis in AXES) and new != old
        check_goal(START, new)
        assert new.hidden % new.heads == 0


def test_more_than_half_takes_several_rounds_of_at_most_half():
    rounds = prune_schedule(START, replace(START, layers=4))  # 30 -> 4 halves 2.9 times
    assert [shape.layers for shape in rounds] == [15, 8, 4]


def test_a_layer_is_counted_by_hand():
    one = replace(START, layers=1)
    attention = 576 * 576 * 2 + 576 * 192 * 2  # q and o; k and v
    assert one.parameters == attention + 3 * 576 * 1536 + 2 * 576
    config = AutoConfig.for_model("llama", hidden_size=576, num_attention_heads=9, num_key_value_heads=3)
    assert shape_of(config).head_dim == 64


def test_refusals():
    with pytest.raises(ValueError, match="hidden 576 is no multiple of the 5 heads"):
        five = replace(START, heads_per_group=1, kv_groups=9)
        check_goal(five, replace(five, kv_groups=5))
    with pytest.raises(ValueError, match="most 1 is the part"):
        prune_schedule(START, SMALL, most=1)
    with pytest.raises(ValueError, match="no whole steps"):
        prune_schedule(replace(START, layers=2), replace(START, layers=1), most=0.4)
    with pytest.raises(ValueError, match="hidden 512 must be a multiple of 288"):
        prune_schedule(START, replace(START, hidden=512))
