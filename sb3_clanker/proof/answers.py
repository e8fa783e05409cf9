"""What Stable-Baselines3 itself answers, written down as test vectors for consumers in other languages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sb3_clanker.options import ExportOptions
from sb3_clanker.policy_file.dialects import dialect_of
from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.policy_file.vectors import TestVectors, VectorCase, VectorInput, VectorOutput
from sb3_clanker.proof.outside import expected_outside
from sb3_clanker.proof.probes import N_CORNERS, Batch, Probes, batch_size, take
from sb3_clanker.proof.reference import Reference, State
from sb3_clanker.proof.stages import comparison_unit, rows
from sb3_clanker.proof.truncation import between_bytes
from sb3_clanker.runtime.policy import OnnxPolicy

_Case: TypeAlias = tuple[dict[str, NDArray[Any]], NDArray[np.float64]]

_SEED = 20_260_104
_RESET_EVERY = 5
"""Steps after which a recurrent policy's state is reset."""


def write_vectors(
    policy: OnnxPolicy, reference: Reference, probes: Probes, n: int, options: ExportOptions
) -> TestVectors | None:
    """Ask Stable-Baselines3 for its actions, and write them down beside the inputs of the graph.

    Left out is what no runtime can be held to: observations on which Stable-Baselines3 itself answers otherwise when
    its weights change in their last digits (near-ties of scores), or gives nothing finite.

    :param policy: the proven file
    :param reference: Stable-Baselines3's own ``predict``
    :param probes: what may be tried
    :param n: how many cases, at most
    :param options: tolerances
    :return: the vectors; None where there is no observation on which the policy gives a firm answer
    """
    cases: list[_Case] = []
    for batch, context in _steps(probes, policy.metadata.recurrent, reference):
        expected = reference.predict(batch, **context)
        feed = between_bytes(policy.inputs(batch, **context), policy.metadata.inputs, np.random.default_rng(_SEED))
        answers = rows(expected, batch_size(batch))
        outputs = rows(expected._replace(scores=()), batch_size(batch))
        outputs = np.concatenate([outputs, expected_outside(batch, policy.metadata)], axis=1)
        for index in np.flatnonzero(_firm(answers, reference, batch, context, options)):
            inputs = {
                name: array if policy.metadata.recurrent else array[index : index + 1] for name, array in feed.items()
            }
            cases.append((inputs, outputs[index]))
        if len(cases) >= n:
            break
    if not cases:
        return None
    unit = comparison_unit(reference.action_space, np.stack([row for _, row in cases]))
    return _assemble(policy.metadata, cases[:n], unit, options)


def _steps(probes: Probes, recurrent: bool, reference: Reference) -> Iterator[tuple[Batch, dict[str, Any]]]:
    """All observations at once, the corners first; of a recurrent policy one after another, as in one run."""
    n = len(probes) - N_CORNERS
    order = np.concatenate([np.arange(n, len(probes)), np.random.default_rng(_SEED).permutation(n)])
    observations = take(probes.observations, order)
    if not recurrent:
        masks = probes.action_masks
        yield observations, {} if masks is None else {"action_masks": masks[order]}
        return
    state: State | None = None
    for index in range(len(order)):
        step = take(observations, slice(index, index + 1))
        context = {"state": state, "episode_start": np.array([index % _RESET_EVERY == 0])}
        yield step, context
        state = reference.predict(step, **context).state


def _firm(
    answers: NDArray[np.float64], reference: Reference, batch: Batch, context: dict[str, Any], options: ExportOptions
) -> NDArray[np.bool_]:
    """On which observations the answer does not hang on the last digits of the weights.

    A perturbation is about ten times what rounding does, so a runtime that rounds in its own way stays well within the
    tolerance.
    """
    unit = comparison_unit(reference.action_space, answers)
    allowed = options.atol * unit + options.rtol * np.abs(answers)
    if not reference.action_space.is_continuous:
        allowed[:, : reference.action_space.n_elements] = 0.0  # a choice is the same, or another one
    finite = np.isfinite(answers).all(axis=1)
    perturbed = np.stack([rows(other, len(answers)) for other in reference.perturbed(batch, **context)])
    with np.errstate(invalid="ignore"):  # infinite less infinite
        within = (np.abs(perturbed - answers) <= allowed).all(axis=(0, 2))
    return np.asarray(finite & within)


def _assemble(
    metadata: PolicyMetadata, cases: list[_Case], unit: NDArray[np.float64], options: ExportOptions
) -> TestVectors:
    unit = _as_outputs(metadata, unit, is_unit=True)
    outputs, spans, first = [], {}, 0
    for spec in metadata.outputs:
        shape = tuple(1 if isinstance(dim, str) else dim for dim in spec.shape)
        last = first + int(np.prod(shape))
        exact = spec.dtype == "bool" or (spec.role == "action" and not metadata.action_space.is_continuous)
        outputs.append(
            VectorOutput(
                name=spec.name,
                shape=shape,
                atol=tuple((0.0 if exact else options.atol) * unit[first:last]),
                rtol=0.0 if exact else options.rtol,
            )
        )
        spans[spec.name] = slice(first, last)
        first = last
    return TestVectors(
        digest=metadata.digest,
        inputs=tuple(
            VectorInput(name=key, dtype=str(array.dtype), shape=array.shape)  # type: ignore[arg-type]
            for key, array in cases[0][0].items()
        ),
        outputs=tuple(outputs),
        cases=tuple(
            VectorCase(
                inputs={key: tuple(array.reshape(-1).tolist()) for key, array in feed.items()},
                outputs={key: tuple(row[span].tolist()) for key, span in spans.items()},
            )
            for feed, row in ((feed, _as_outputs(metadata, answer)) for feed, answer in cases)
        ),
    )


def _as_outputs(metadata: PolicyMetadata, row: NDArray[np.float64], *, is_unit: bool = False) -> NDArray[np.float64]:
    """A row of what is compared, as the numbers of all outputs of the file in its dialect.

    :param is_unit: whether it is what differences are measured in, and not an answer
    """
    space, dialect = metadata.action_space, dialect_of(metadata.outputs)
    action = row[: space.n_elements]
    if dialect.one_hot and space.choices:
        made = [np.arange(n) == index for index, n in zip(action, space.choices, strict=True)]
        action = np.ones(sum(space.choices)) if is_unit else np.concatenate(made)
    echo = np.zeros(1 if dialect.echo else 0)  # what goes in is 0
    return np.concatenate([action, echo, row[space.n_elements :]], dtype=np.float64)
