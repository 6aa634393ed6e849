"""The table of stage orders; every chain of up to four stages is judged by rules written again here."""

from itertools import product

import pytest

from deshi.jobs.stages.orders import ORDERS, STAGES, TRAINING, legal, named, training_steps


def test_the_rows_of_the_table():
    names = {name: legal(order.chain, parent_kept=True) for name, order in ORDERS.items()}
    assert [name for name, reason in names.items() if reason] == ["prune-quantize-distil", "quantize-distil"]
    assert "quantization-aware training" in names["quantize-distil"]
    assert [name for name, order in ORDERS.items() if order.article] == ["distil-quantize-prune"]
    assert len({order.chain for order in ORDERS.values()}) == len(ORDERS)


def test_the_articles_order_needs_the_parent():
    chain = ORDERS["distil-quantize-prune"].chain
    assert legal(chain, parent_kept=True) is None
    assert "full-precision parent" in legal(chain, parent_kept=False)


@pytest.mark.parametrize("parent_kept", [True, False])
def test_every_chain_of_up_to_four_stages(parent_kept):
    legal_ones = 0
    for length in range(1, 5):
        for chain in product(STAGES, repeat=length):
            text = " ".join(chain)
            bad = len(set(chain)) < length
            bad |= "recover" in chain and "prune" not in text.split("recover")[0]
            after = text.partition("quantize")[2]
            bad |= any(stage in after for stage in TRAINING)
            bad |= "prune" in after and not parent_kept
            reason = legal(chain, parent_kept=parent_kept)
            assert (reason is not None) == bad, (chain, reason)
            legal_ones += not bad
    assert legal_ones == (19 if parent_kept else 17)


@pytest.mark.parametrize(
    ("chain", "reason"),
    [
        ((), "empty"),
        (("distill", "sparsify"), "'sparsify' is no stage; use distill, prune, recover, quantize"),
        (("recover", "prune"), "before any prune"),
        (("prune", "prune"), "prune stands twice"),
        (("quantize", "quantize"), "quantize stands twice"),
        (("prune", "quantize", "distill"), "distill after quantize"),
        (("prune", "quantize", "recover"), "recover after quantize"),
    ],
)
def test_the_reason_is_named(chain, reason):
    assert reason in legal(chain, parent_kept=True)


def test_the_budget_is_equal_for_every_chain():
    assert training_steps(("distill", "prune", "recover", "quantize"), 200) == {0: 100, 2: 100}
    assert training_steps(("prune", "distill", "quantize"), 200) == {1: 200}
    assert training_steps(("distill", "prune", "recover"), 7) == {0: 4, 2: 3}
    assert training_steps(("prune", "quantize"), 200) == {}
    for order in ORDERS.values():
        assert sum(training_steps(order.chain, 151).values()) in (0, 151)
    with pytest.raises(ValueError, match=r"distill\.steps 1 is fewer than the 2"):
        training_steps(("distill", "prune", "recover"), 1)


def test_named():
    assert named("auto") == tuple(ORDERS.values())
    assert [order.name for order in named(("quantize-only", "distil-quantize", "quantize-only"))] == [
        "quantize-only",
        "distil-quantize",
    ]
    with pytest.raises(ValueError, match=r"'distill-first', which is no stage order; use prune-distil-quantize, "):
        named(("distill-first",))


def test_a_row_joins_from_outside(monkeypatch):
    order = type(ORDERS["quantize-only"])(name="prune-only", chain=("prune",))
    monkeypatch.setitem(ORDERS, "prune-only", order)
    assert named(("prune-only",)) == (order,)
    assert legal(order.chain, parent_kept=False) is None
