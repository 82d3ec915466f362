"""The answers to the questions of the exercise, each number taken from the runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from labs.sparse_regression.cases import (
    L1_STRENGTHS,
    STEP,
    STEPS,
    Case,
    converged,
    ista_and_fista,
    trimmed_on_old,
)

__all__ = ["answers", "loss_text", "support_text", "vector_text"]

SUBSCRIPTS = "₁₂₃₄₅"


def loss_text(loss: float) -> str:
    """Four digits; below 1e-25 there is rounding alone, which no machine repeats."""
    return "< 1e-25" if loss < 1e-25 else f"{loss:.4g}"


def vector_text(weights: Iterable[float]) -> str:
    """Six decimals, and 0 where the weight is exactly zero."""
    return "[" + ", ".join("0" if w == 0 else f"{w:.6f}" for w in weights) + "]"


def support_text(support: Iterable[int]) -> str:
    """Names of the weights."""
    return "{" + ", ".join(f"w{SUBSCRIPTS[i]}" for i in support) + "}"


def _listed(values: Iterable[object]) -> str:
    texts = [str(value) for value in values]
    return ", ".join(texts[:-1]) + " and " + texts[-1]


def _figure(name: str, what: str) -> str:
    return f"![{what}](../labs/results/sparse_regression/{name}.svg)"


def answers(cases: Sequence[Case]) -> str:
    """Markdown, a section for each question."""
    by = {letter: [case for case in cases if case.letter == letter] for letter in "bcdef"}
    parts = [
        _gradient(by["b"][0]),
        _projected(by["c"][0]),
        _subgradient(by["d"]),
        _proximal(by["d"], by["e"]),
        _trimmed(by["e"], by["f"], by["c"][0]),
        _closed_form(),
        _speed(),
        _old(by["f"][-1]),
    ]
    return "\n\n".join(parts)


def _gradient(case: Case) -> str:
    loss = case.history.loss
    factor = (loss[100] / loss[50]) ** (1 / 50)
    return f"""### (b) Gradient descent

{_figure("b", "Loss and weights under gradient descent")}

*Optimal?* Yes: L falls from {loss[0]:g} to {loss_text(loss[-1])}, on the log scale along a straight
line, by a factor of {factor:.3f} a step, until rounding stops it. *Sparse?* No: of
five weights {case.history.exact_zeros or "none"} are zero. Three equations leave two of five weights free, and from zero the descent
comes to the solution of smallest norm, W = {vector_text(case.weights)}."""


def _projected(case: Case) -> str:
    (first, start), (last, end) = case.history.support_changes
    loss = case.history.loss
    return f"""### (c) Projected gradient descent

{_figure("c", "Loss and weights under projected gradient descent")}

*Optimal?* Yes: L = {loss_text(loss[-1])} after {STEPS} steps. *Sparse?* Yes, by construction, from step {first}
on: {case.history.exact_zeros} exact zeros, W = {vector_text(case.weights)}. The first pair, {support_text(start)}, is the wrong
one; L is still {loss[last - 1]:.3g} at step {last - 1}. At step {last} w₁ has come back so near to zero that a single step
makes w₅ larger, the pair becomes {support_text(end)}, and L falls along a straight line."""


def _subgradient(cases: Sequence[Case]) -> str:
    zeros = sum(case.history.exact_zeros for case in cases)
    losses = _listed(loss_text(case.history.loss[-1]) for case in cases)
    swings = _listed(f"{case.swing[2:4].max():.3f}" for case in cases)
    jumps = _listed(f"{STEP * (case.strength or 0):g}" for case in cases)
    first = _listed(f"{case.weights[0]:.3f}" for case in cases[:2])
    return f"""### (d) L1 by gradient descent

{_figure("d", "Loss and weights under L1 by subgradient")}

With λ = {_listed(f"{s:g}" for s in L1_STRENGTHS)} the loss ends at {losses}: the stronger the penalty, the
further from zero, since the penalty pulls the large weights too (bias). It does not settle: a weight
that should be zero is pushed by μ·λ ({jumps}) at each step, past zero and back.
Over the last 20 steps w₃ and w₄ move by up to {swings}, as the panels on the right show.
In all four runs together {zeros or "none"} of the weights are exactly zero. The two weakest
penalties are slow as well: w₁, which should vanish, is still at {first} after {STEPS} steps."""


def _proximal(plain: Sequence[Case], cases: Sequence[Case]) -> str:
    zeros = _listed(case.history.exact_zeros for case in cases)
    losses = _listed(loss_text(case.history.loss[-1]) for case in cases)
    before = _listed(loss_text(case.history.loss[-1]) for case in plain)
    swings = [case.swing[case.weights == 0].max() for case in cases]
    settled, support = cases[-1].history.support_changes[-1]
    return f"""### (e) L1 by proximal gradient

{_figure("e", "Loss and weights under L1 by proximal gradient")}

Thresholds {_listed(f"{STEP * s:g}" for s in L1_STRENGTHS)} are μ·λ for the λ of (d), and the same objective is minimized: the loss
ends at {losses}, against {before} in (d), and the paths of
the large weights are close to those of (d). What differs are the small ones: {zeros} weights are *exactly*
zero, and they stay so (over the last 20 steps these move by {max(swings):g}), because the soft
threshold sets to zero whatever is within μ·λ of it. The saw teeth of (d) are gone. The bias is not:
it belongs to the objective. With λ = {cases[-1].strength:g} the support is {support_text(support)} from step {settled} on; the weaker penalties
have not come so far after {STEPS} steps (see the closed form below)."""


def _trimmed(soft: Sequence[Case], cases: Sequence[Case], projected: Case) -> str:
    losses = _listed(loss_text(case.history.loss[-1]) for case in cases)
    settled = _listed(case.history.support_changes[-1][0] for case in cases)
    strongest = cases[-1]
    same = float(np.abs(strongest.history.weights - projected.history.weights).max())
    counts = _listed(int(case.history.support[1].sum()) for case in cases)
    overtaken = []
    for case in cases:
        path = np.abs(case.history.weights)
        overtaken.append(int((path[:, 4] > path[:, 0]).argmax()))
    equal = "to the last bit" if same == 0 else f"to within {same:.1g}"
    return f"""### (f) Trimmed L1

{_figure("f", "Loss and weights under trimmed L1")}

With λ = {_listed(f"{case.strength:g}" for case in cases)} the loss ends at {losses}. *Against L1:* the
two largest weights carry no penalty, so there is no bias: all four runs come to
W = {vector_text(np.round(strongest.weights, 6))}, with {strongest.history.exact_zeros} exact zeros, where L1 with λ = {soft[-1].strength:g} has
{vector_text(soft[-1].weights)}. A stronger penalty costs
no accuracy here, it only finds the support sooner: it is final from step {settled} on.

{_figure("early", "First 20 steps of trimmed L1 and projected gradient")}

*Against pruning at each step, early on:* pruning leaves 2 weights from the first step. The trimmed
penalty pushes the other three towards zero by μ·λ a step, and after the first step {counts} weights
are not zero. With a weak penalty w₅ grows beside w₁ from the start, and is the larger long
before w₁ has gone: from step {_listed(overtaken)} on, λ in order. With λ = {strongest.strength:g} the threshold of {STEP * (strongest.strength or 0):g} is no less than
what any of the three gains in a step until then, and the run is the one of (c) {equal}: pruning is the limit
of a strong trimmed penalty. Its first pair is wrong too, and is left at step {strongest.history.support_changes[-1][0]}."""


def _closed_form() -> str:
    rows = []
    for strength in L1_STRENGTHS:
        slow, fast = ista_and_fista(strength)
        aim = converged(strength)
        loss = 3 * strength**2 / 28
        rows.append(
            f"| {strength:g} | {vector_text(aim)} | {loss:.6f} | {loss_text(slow.loss[-1])} | "
            f"{np.abs(slow.weights[-1] - aim).max():.2g} | {np.abs(fast.weights[-1] - aim).max():.2g} |"
        )
    table = "\n".join(rows)
    return f"""### The lasso path, and where {STEPS} steps stop short of it

{_figure("path", "The lasso path in closed form and the distance to it")}

| λ | minimiser | its L | L of ISTA | error of ISTA | error of FISTA |
|---:|---|---:|---:|---:|---:|
{table}

Errors are the largest of a weight after {STEPS} steps. With a weak penalty w₁ has a long way back to zero
and little to push it: the loss is flat along the two directions that the data leave free, and there
w₁ moves by no more than about μ·λ a step. This is why (d) and (e) with small λ do not show the
minimiser of their objective, and why their losses after {STEPS} steps differ from 3λ²/28."""


def _speed() -> str:
    settled = [
        [history.support_changes[-1][0] for history in ista_and_fista(strength, 1500)]
        for strength in L1_STRENGTHS
    ]
    return f"""### FISTA against ISTA

{_figure("fista", "Objective above its minimum under ISTA and FISTA")}

For λ = {_listed(f"{s:g}" for s in L1_STRENGTHS)} ISTA has the support of the minimiser from step {_listed(s for s, _ in settled)}
on, FISTA from step {_listed(f for _, f in settled)}: momentum adds up the small pushes along the flat directions. It
overshoots, so the objective goes up and down on its way. Once its support is right, plain ISTA falls
without turning back, and with a strong penalty it is no slower in the end."""


def _old(exact: Case) -> str:
    old = trimmed_on_old(10.0)
    wrong = tuple(int(i) for i in old.support[-1].nonzero()[0])
    turn = exact.history.support_changes[-1][0]
    before = exact.history.weights[turn - 1]
    zero = int((old.weights[:, 0] > 0).argmax())
    return f"""### Why the spared weights must be chosen on the stepped vector

{_figure("old", "Trimmed L1 with the spared weights chosen on the stepped and on the old vector")}

The proximal operator is applied to the vector that the gradient step has reached, so the weights that
carry no penalty are the largest of *that* vector. Chosen on the weights before the step, with λ = 10 the
run ends at L = {loss_text(old.loss[-1])} with the wrong pair {support_text(wrong)}, W = {vector_text(old.weights[-1])},
where the exact operator has L = {loss_text(exact.history.loss[-1])}. In both runs w₁ and w₂ are soon the largest. Under the exact operator
w₁ comes back towards zero, and at step {turn}, from {before[0]:.3f}, it is smaller than what w₅ gains in a single
step: w₅ is spared at once, and w₁ goes. On the old vector w₅ is zero and therefore never among the
largest; it would have to gain more than the whole threshold, μ·λ = {STEP * 10:g}, in one step. It does not, and w₁
crosses zero at step {zero}, spared all the way, and grows on the other side. A weight that is zero is so
kept at zero by the choice itself. (At the first step all are zero, and which are spared is chance.)"""
