"""A language model's loss on packed rows against a hand formula in float64, one sequence at a time."""

from __future__ import annotations

import copy
import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, GraniteConfig, GraniteForCausalLM

from deshi.jobs.data.conversations import canonical_messages
from deshi.jobs.data.packing import collate, plan
from deshi.jobs.data.render import render
from deshi.jobs.stages.language_apprentice import LanguageApprentice, targets_of
from deshi.jobs.stages.plain_head import refuse_altered_logits

lm = runpy.run_path(str(Path(__file__).parents[1] / "lm_fixtures.py"))
MAX_LENGTH, K = 128, 8
LOSSES = ("forward_kl", "reverse_kl", "jsd", "skew_kl")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """A model this small is only slowed down by more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = lm["tiny_lm"](tmp_path_factory.mktemp("student"))
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": 2, "temperature": 0.7, "do_sample": True})
    )
    return folder


@pytest.fixture(scope="module")
def sequences(folder):
    texts = [canonical_messages(messages) for messages in lm["conversations"](14)]
    return render(folder, texts, format="messages", loss_on="assistant", max_length=MAX_LENGTH)


@pytest.fixture(scope="module")
def student(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Another width, so that its hidden states and its head are its own."""
    folder = lm["tiny_lm"](tmp_path_factory.mktemp("teacher"), layers=3, seed=5)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def job(**change):
    told = {"loss": "forward_kl", "alpha": 0.3, "temperature": 1.0, "distil_weight": 1.0, "label_weight": 0.0}
    return SimpleNamespace(**(told | change))


def batch_of(sequences, rows, weight=1.0, answers=None):
    batch = collate(rows, input_ids=sequences.input_ids, loss_mask=sequences.loss_mask, pad_id=0)
    batch["weight"] = torch.tensor(weight)
    if answers is not None:
        parts = [answers[sequence] for row in rows for sequence in row]
        batch |= {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return batch


def packed(sequences):
    rows = plan(sequences.lengths, max_length=MAX_LENGTH, seed=0).rows
    assert max(map(len, rows)) > 1
    return rows


def alone(model, sequences, sequence):
    """log-probabilities float64 [n, v] at a sequence's targets, by itself, and the targets [n]."""
    exact = copy.deepcopy(model).double().eval()
    ids = torch.from_numpy(sequences.input_ids[sequence].astype(np.int64))[None]
    with torch.no_grad():
        logits = exact(ids).logits[0]
    at = np.flatnonzero(sequences.loss_mask[sequence])
    return logits[at - 1].log_softmax(-1).numpy(), ids[0, at].numpy()


def cached(model, sequences):
    """The teacher's top k of each sequence's targets, as a batch carries them."""
    answers = []
    for sequence in range(len(sequences.input_ids)):
        said, _ = alone(model, sequences, sequence)
        ids = np.argsort(-said, axis=1)[:, :K]
        top = np.take_along_axis(said, ids, 1)
        tail = np.log(1 - np.exp(top).sum(1))
        answers.append(
            {
                "answer_ids": torch.from_numpy(ids),
                "answer_log_probs": torch.from_numpy(top.astype(np.float32)),
                "answer_tail": torch.from_numpy(tail.astype(np.float32)),
            }
        )
    return answers


def by_hand(name, log_p, log_q, alpha):
    """The divergences of losses.py, a row at a time, in numpy."""
    p, q = np.exp(log_p), np.exp(log_q)
    kl = lambda log_a, log_b: (np.exp(log_a) * (log_a - log_b)).sum(1)  # noqa: E731
    mixture = np.log(alpha * p + (1 - alpha) * q)
    return {
        "forward_kl": lambda: kl(log_p, log_q),
        "reverse_kl": lambda: kl(log_q, log_p),
        "jsd": lambda: alpha * kl(log_p, mixture) + (1 - alpha) * kl(log_q, mixture),
        "skew_kl": lambda: kl(log_p, mixture),
    }[name]()


def bucketed(said, ids):
    """log-probabilities of the listed ids and of all the others together, [n, k + 1]."""
    top = np.take_along_axis(said, ids, 1)
    rest = np.exp(said).sum(1) - np.exp(top).sum(1)
    return np.concatenate([top, np.log(rest)[:, None]], axis=1)


def expected(student, teacher, sequences, told, *, by_cache):
    """The mean over all targets of all sequences, each read alone."""
    rows = []
    for sequence in range(len(sequences.input_ids)):
        log_q, targets = alone(student, sequences, sequence)
        log_p, _ = alone(teacher, sequences, sequence)
        cross_entropy = -np.take_along_axis(log_q, targets[:, None], 1)[:, 0]
        if by_cache:
            ids = np.argsort(-log_p, axis=1)[:, :K]
            log_q, log_p = bucketed(log_q, ids), bucketed(log_p, ids)
        if told.temperature != 1:
            log_q, log_p = (
                said / told.temperature - np.log(np.exp(said / told.temperature).sum(1, keepdims=True))
                for said in (log_q, log_p)
            )
        divergence = told.temperature**2 * by_hand(told.loss, log_p, log_q, told.alpha)
        rows.append(told.distil_weight * divergence + told.label_weight * cross_entropy)
    return np.concatenate(rows).mean()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("by_cache", [True, False], ids=["cached", "online"])
def test_the_loss_is_that_of_each_sequence_alone(student, teacher, sequences, name, by_cache):
    told = job(loss=name, label_weight=0.5, temperature=2.0 if name == "forward_kl" else 1.0)
    apprentice, asked = LanguageApprentice(student, told), LanguageApprentice(teacher, told)
    batch = batch_of(sequences, packed(sequences), answers=cached(teacher, sequences) if by_cache else None)
    got = apprentice.loss(apprentice, None if by_cache else asked, batch, told)
    assert float(got.detach()) == pytest.approx(
        expected(student, teacher, sequences, told, by_cache=by_cache), rel=1e-5
    )


def test_the_control_learns_from_the_text_alone(student, teacher, sequences):
    told = job(distil_weight=0.0, label_weight=1.0)
    apprentice = LanguageApprentice(student, told)
    got = apprentice.loss(apprentice, None, batch_of(sequences, packed(sequences)), told)
    assert float(got.detach()) == pytest.approx(expected(student, teacher, sequences, told, by_cache=False), rel=1e-5)


def gradients(student, told, batches, teacher=None):
    """Gradients of the mean of the batches' losses, as workers and accumulation average them, and that mean."""
    apprentice = LanguageApprentice(copy.deepcopy(student), told)
    asked = LanguageApprentice(teacher, told) if teacher is not None else None
    total = sum(apprentice.loss(apprentice, asked, batch, told) for batch in batches) / len(batches)
    total.backward()
    return float(total.detach()), {name: weight.grad for name, weight in apprentice.student.named_parameters()}


def assert_same(first, second, *, within):
    assert first[0] == pytest.approx(second[0], rel=within)
    for name, wanted in second[1].items():
        assert float((first[1][name] - wanted).norm()) <= within * float(wanted.norm()), name


@pytest.mark.parametrize("how", ["online", "cached", "text"])
def test_packed_rows_teach_what_padded_ones_do(student, teacher, sequences, how):
    told = job(label_weight=0.5) if how != "text" else job(distil_weight=0.0, label_weight=1.0)
    answers = cached(teacher, sequences) if how == "cached" else None
    one_a_row = [[sequence] for sequence in range(len(sequences.input_ids))]
    made = [
        gradients(student, told, [batch_of(sequences, rows, answers=answers)], teacher if how == "online" else None)
        for rows in (packed(sequences), one_a_row)
    ]
    assert_same(*made, within=1e-5)


@pytest.mark.parametrize("how", ["online", "cached", "text"])
def test_micro_batches_of_unequal_targets_add_up_to_one_big_batch(student, teacher, sequences, how):
    told = job(label_weight=0.5) if how != "text" else job(distil_weight=0.0, label_weight=1.0)
    answers = cached(teacher, sequences) if how == "cached" else None
    rows = packed(sequences)
    targets = [sum(int(sequences.learned[sequence]) for sequence in row) for row in rows]
    weights = [len(rows) * here / sum(targets) for here in targets]
    assert max(weights) > 1.2 * min(weights)
    one = gradients(student, told, [batch_of(sequences, rows, answers=answers)], teacher if how == "online" else None)
    parts = [batch_of(sequences, [row], weight, answers) for row, weight in zip(rows, weights, strict=True)]
    assert_same(gradients(student, told, parts, teacher if how == "online" else None), one, within=1e-5)
    unweighted = [batch_of(sequences, [row], 1.0, answers) for row in rows]
    assert abs(gradients(student, told, unweighted, teacher if how == "online" else None)[0] / one[0] - 1) > 1e-4


def test_a_tied_weight_gets_the_gradient_of_both_its_uses(student, sequences):
    """Against transformers' own cross-entropy, which knows nothing of chunks."""
    told = job(distil_weight=0.0, label_weight=1.0)
    rows = [[sequence] for sequence in range(len(sequences.input_ids))]
    batch = batch_of(sequences, rows)
    plain = copy.deepcopy(student)
    plain(
        input_ids=batch["input_ids"], position_ids=batch["position_ids"], labels=batch["labels"], use_cache=False
    ).loss.backward()
    _, mine = gradients(student, told, [batch])
    assert student.get_input_embeddings().weight is student.get_output_embeddings().weight
    for name, weight in plain.named_parameters():
        assert float((weight.grad - mine[name]).norm()) < 1e-5 * float(weight.grad.norm()), name


def test_targets_stand_in_the_order_of_the_rows(sequences):
    rows = packed(sequences)
    wanted = [
        ids[mask] for row in rows for ids, mask in ((sequences.input_ids[at], sequences.loss_mask[at]) for at in row)
    ]
    assert targets_of(batch_of(sequences, rows)).tolist() == np.concatenate(wanted).tolist()


@pytest.mark.parametrize("wider", ["student", "teacher"])
def test_padded_rows_of_a_head_take_no_part(student, teacher, sequences, wider):
    models = {"student": copy.deepcopy(student), "teacher": copy.deepcopy(teacher)}
    models[wider].resize_token_embeddings(328, mean_resizing=False)
    told, batch = job(label_weight=0.5), batch_of(sequences, packed(sequences))
    asked = LanguageApprentice(models["teacher"], told)
    apprentice = LanguageApprentice(models["student"], told, vocabulary=320)
    got = apprentice.loss(apprentice, asked, batch, told)
    assert float(got.detach()) == pytest.approx(expected(student, teacher, sequences, told, by_cache=False), rel=1e-5)
    got.backward()
    assert not apprentice.head.grad[320:].any()
    bare = LanguageApprentice(models["student"], told)
    with pytest.raises(ValueError, match="differ by padding alone"):
        bare.loss(bare, asked, batch, told)


@pytest.mark.parametrize("tied", [True, False])
def test_stock_transformers_loads_what_is_written(folder, student, tmp_path, tied):
    model = copy.deepcopy(student)
    if not tied:
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(2 * model.lm_head.weight.detach())
    with torch.no_grad():
        model.model.norm.weight.mul_(3)
    LanguageApprentice(model, job()).write(tmp_path / "model", source=folder)
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "model", trust_remote_code=False)
    assert all(torch.equal(back.state_dict()[name], weight) for name, weight in model.state_dict().items())
    with safe_open(tmp_path / "model" / "model.safetensors", "pt") as file:
        assert ("lm_head.weight" in file.keys()) != tied  # noqa: SIM118
    assert back.generation_config.temperature == 0.7
    same = (tmp_path / "model" / "generation_config.json", folder / "generation_config.json")
    assert same[0].read_bytes() == same[1].read_bytes()
    chat = [{"role": "user", "content": "what is the tower?"}]
    old, new = (AutoTokenizer.from_pretrained(place) for place in (folder, tmp_path / "model"))
    assert new.apply_chat_template(chat) == old.apply_chat_template(chat)


def test_an_architecture_that_scales_its_logits_is_refused(student):
    refuse_altered_logits(student, with_bias=False)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = GraniteForCausalLM(GraniteConfig(vocab_size=64, logits_scaling=4.0, num_key_value_heads=2, **sizes))
    with pytest.raises(ValueError, match="'granite' caps, scales or shifts its logits"):
        refuse_altered_logits(model, with_bias=False)
