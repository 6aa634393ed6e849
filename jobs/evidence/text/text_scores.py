"""How a language model answers for held-out text, token by token: likelihood, divergence from the teacher, same top.

n targets, the tokens that are learned, stand row after row as in `sequence_teacher.answer`. At each of them, in nats
and float32,

    nll         -log q(token), q the model's softmax over the vocabulary
    kl          KL(p || q) = sum p (log p - log q) over the whole vocabulary, p the teacher's softmax
    same_top    whether p and q find the same token likeliest

`target_states` runs the decoder over packed rows and keeps the final hidden states [n, h] of the positions that
predict a target; only they meet the head, `LOGIT_TOKENS` at a time, so that no more than two tables [512, vocabulary]
exist, the model's and the teacher's. The teacher's states and its head are computed once (`teacher_states`) and serve
every model of a comparison. Where heads differ by padded rows, which `vocabulary_match.same_vocabulary` tells from
different vocabularies, both softmaxes run over the rows that they have in common.

`cached_scores` needs no teacher: its `kl` is taken over k + 1 outcomes, the k tokens that the cache lists and one
bucket for the rest. By the data-processing inequality that is a lower bound of the whole KL: it ranks trials and proves
no limit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deshi.jobs.data.packing import IGNORED, collate, plan, refuse_leak
from deshi.jobs.data.render import Sequences
from deshi.jobs.stages.plain_head import refuse_altered_logits
from deshi.jobs.stages.sequence_answers import SequenceAnswers
from deshi.jobs.stages.sequence_teacher import LOGIT_TOKENS

if TYPE_CHECKING:
    from torch import Tensor

    # From a block of the model's log-softmax [b, vocabulary], which may be overwritten, and the positions of its
    # targets: kl [b] and same top [b].
    Against = Callable[[Tensor, slice], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class TokenScores:
    """One model at every target, row after row."""

    row: NDArray[np.int64]  # [targets], the row of the split
    nll: NDArray[np.float32]  # [targets], nats
    kl: NDArray[np.float32] | None = None  # [targets], nats; None: nothing to compare with
    same_top: NDArray[np.bool_] | None = None  # [targets]


@dataclass(frozen=True, kw_only=True)
class Head:
    """The rows of an output matrix that count, float32."""

    weight: Tensor  # [vocabulary, h]
    bias: Tensor | None  # [vocabulary]

    def logits(self, states: Tensor) -> Tensor:
        """[n, vocabulary] of states [n, h]."""
        from torch.nn import functional

        return functional.linear(states, self.weight, self.bias)

    def first(self, rows: int) -> Head:
        """Its first rows."""
        return Head(weight=self.weight[:rows], bias=None if self.bias is None else self.bias[:rows])


@dataclass(frozen=True, kw_only=True)
class TeacherStates:
    """What every model of a comparison is held against; the rest of the teacher need not stay in memory."""

    states: Tensor  # float32 [targets, h_t]
    head: Head


def teacher_states(
    model: Any,
    sequences: Sequences,
    *,
    max_length: int,
    vocabulary: int | None = None,
    batch_rows: int = 1,
    packing: bool = True,
) -> TeacherStates:
    """The teacher at the targets, with the first `vocabulary` rows of its head or the whole of it.

    Raises:
        ValueError: see `target_states`.
    """
    states = target_states(model, sequences, max_length=max_length, batch_rows=batch_rows, packing=packing)
    return TeacherStates(states=states, head=head_of(model, vocabulary))


def target_states(
    model: Any, sequences: Sequences, *, max_length: int, batch_rows: int = 1, packing: bool = True
) -> Tensor:
    """Final hidden states float32 [targets, h] at the positions that predict the targets, row after row.

    Raises:
        ValueError: for a model that alters logits behind its head or, with `packing`, lets packed rows read each other.
    """
    import torch

    refuse_altered_logits(model, with_bias=True)
    if packing:
        refuse_leak(model)
    learnable = sequences.learnable
    packed = plan(sequences.lengths[learnable], max_length=max_length, seed=0, packing=packing)
    rows = [[int(learnable[at]) for at in row] for row in packed.rows]
    # Rows of like length together: a batch is as long as its longest row.
    rows.sort(key=lambda row: int(sequences.lengths[row].sum()))
    begins = np.concatenate([[0], np.cumsum(sequences.learned)])
    decoder, device = model.get_decoder(), next(model.parameters()).device
    width = model.get_output_embeddings().weight.shape[1]
    states = torch.empty(int(begins[-1]), width, device=device)
    for first in range(0, len(rows), batch_rows):
        some = rows[first : first + batch_rows]
        batch = collate(some, input_ids=sequences.input_ids, loss_mask=sequences.loss_mask, pad_id=0)
        batch = {name: value.to(device) for name, value in batch.items()}
        at = np.concatenate([np.arange(begins[row], begins[row + 1]) for packed_row in some for row in packed_row])
        with torch.inference_mode():
            hidden = decoder(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False)
            found = hidden.last_hidden_state[:, :-1][batch["labels"][:, 1:] != IGNORED]
            states[torch.from_numpy(at).to(device)] = found.float()
    return states


def head_of(model: Any, vocabulary: int | None = None) -> Head:
    """The first `vocabulary` rows of a model's output matrix, or all of them.

    Raises:
        ValueError: if it has not that many.
    """
    matrix = model.get_output_embeddings()
    bias = getattr(matrix, "bias", None)
    head = Head(weight=matrix.weight.detach().float(), bias=None if bias is None else bias.detach().float())
    rows = len(head.weight)
    if vocabulary is not None and not 0 < vocabulary <= rows:
        raise ValueError(
            f"vocabulary {vocabulary} must lie in 1..{rows}, the rows of the model's head; see same_vocabulary"
        )
    return head if vocabulary is None else head.first(vocabulary)


def scores(
    model: Any,
    sequences: Sequences,
    *,
    max_length: int,
    teacher: TeacherStates | None,
    batch_rows: int = 1,
    packing: bool = True,
) -> TokenScores:
    """A model against the text and, where there is one, against the teacher.

    Raises:
        ValueError: see `target_states`; for a teacher asked for other targets, for numbers that are not finite.
    """
    head = head_of(model)
    states = target_states(model, sequences, max_length=max_length, batch_rows=batch_rows, packing=packing)
    if teacher is None:
        return _scored(states, head, sequences, None)
    if len(teacher.states) != len(states):
        raise ValueError(
            f"the teacher was asked for {len(teacher.states)} tokens and the model for {len(states)}; "
            "give both the same sequences"
        )
    size = min(len(head.weight), len(teacher.head.weight))
    return _scored(states, head.first(size), sequences, _whole_vocabulary(teacher.states, teacher.head.first(size)))


def teacher_scores(teacher: TeacherStates, sequences: Sequences) -> TokenScores:
    """The teacher's own likelihood of the text it was asked for, without a second run."""
    return _scored(teacher.states, teacher.head, sequences, None)


def cached_scores(
    model: Any,
    sequences: Sequences,
    answers: SequenceAnswers,
    *,
    max_length: int,
    batch_rows: int = 1,
    packing: bool = True,
) -> TokenScores:
    """A model against cached answers; `sequences` is the split from its first row, scored are the rows with answers.

    `kl` is a lower bound, see the module's text.

    Raises:
        ValueError: for tokens that were not asked; see `scores`.
    """
    answers.refuse_other_tokens(sequences)
    rows = answers.rows.tolist()
    asked = Sequences(
        input_ids=[sequences.input_ids[row] for row in rows],
        loss_mask=[sequences.loss_mask[row] for row in rows],
        cut=0,
    )
    head = head_of(model, answers.vocabulary)
    states = target_states(model, asked, max_length=max_length, batch_rows=batch_rows, packing=packing)
    told = _scored(states, head, asked, _top_and_bucket(answers))
    return TokenScores(row=answers.rows[told.row], nll=told.nll, kl=told.kl, same_top=told.same_top)


def _scored(states: Tensor, head: Head, sequences: Sequences, against: Against | None) -> TokenScores:
    """Sends the states past the head, a chunk at a time, and its log-softmax past `against`, a block at a time."""
    import torch

    from deshi.kernels.through_head import blocks

    told = [ids[mask] for ids, mask in zip(sequences.input_ids, sequences.loss_mask, strict=True)]
    labels = torch.from_numpy(np.concatenate([np.zeros(0, np.int32), *told]).astype(np.int64)).to(states.device)
    n = len(states)
    assert n == len(labels), "states of other sequences"
    nll, kl = torch.empty(n), torch.empty(n)
    same = torch.empty(n, dtype=torch.bool)
    with torch.inference_mode():
        for begin in range(0, n, LOGIT_TOKENS):
            logits = head.logits(states[begin : begin + LOGIT_TOKENS])
            for rows in blocks(logits):
                block = logits[rows]
                here = slice(begin + rows.start, begin + rows.start + len(block))
                block -= block.logsumexp(dim=-1, keepdim=True)
                nll[here] = -block.gather(1, labels[here, None])[:, 0].cpu()
                if against is not None:
                    block_kl, block_same = against(block, here)
                    kl[here], same[here] = block_kl.cpu(), block_same.cpu()
    _refuse_no_numbers(nll if against is None else nll + kl)
    return TokenScores(
        row=np.repeat(np.arange(len(sequences.learned)), sequences.learned),
        nll=nll.numpy(),
        kl=None if against is None else kl.numpy(),
        same_top=None if against is None else same.numpy(),
    )


def _whole_vocabulary(states: Tensor, head: Head) -> Against:
    chunk: dict[int, Tensor] = {}  # begin of the chunk -> the teacher's logits, of one chunk only

    def against(log_q: Tensor, here: slice) -> tuple[Tensor, Tensor]:
        begin = here.start // LOGIT_TOKENS * LOGIT_TOKENS
        if begin not in chunk:
            chunk.clear()
            chunk[begin] = head.logits(states[begin : begin + LOGIT_TOKENS])
        log_p = chunk[begin][here.start - begin : here.stop - begin]
        log_p -= log_p.logsumexp(dim=-1, keepdim=True)
        same = log_p.argmax(dim=-1) == log_q.argmax(dim=-1)
        gap = log_q.neg_().add_(log_p)
        # Rounding may leave a hair below zero where both agree.
        return gap.mul_(log_p.exp_()).sum(dim=-1).clamp_(min=0), same

    return against


def _top_and_bucket(answers: SequenceAnswers) -> Against:
    import torch

    from deshi.kernels.topk_gradient import NO_MASS

    ids, log_probs, tail = (torch.from_numpy(told) for told in answers.of(answers.rows))
    has_tail = ids.shape[1] < answers.vocabulary

    def against(log_q: Tensor, here: slice) -> tuple[Tensor, Tensor]:
        listed = ids[here].to(log_q.device)
        log_p = log_probs[here]
        if has_tail:
            log_p = torch.cat([log_p, tail[here, None].clamp(min=NO_MASS)], dim=1)
        log_p = log_p.to(log_q.device).log_softmax(dim=-1)  # as stored, they sum to one only nearly
        same = log_q.argmax(dim=-1) == listed[:, 0]
        outcomes = log_q.gather(1, listed)
        if has_tail:
            rest = log_q.scatter_(1, listed, -torch.inf).logsumexp(dim=-1, keepdim=True)
            outcomes = torch.cat([outcomes, rest], dim=1)
        return (log_p.exp() * (log_p - outcomes)).sum(dim=-1).clamp_(min=0), same

    return against


def _refuse_no_numbers(values: Tensor) -> None:
    import torch

    finite = torch.isfinite(values)
    if not bool(finite.all()):
        raise ValueError(
            f"{int((~finite).sum())} of {len(values)} tokens have a likelihood or a divergence that is not finite; "
            "the model's weights are broken or overflow in half precision: load it in fp32"
        )
