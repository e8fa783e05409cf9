"""Names and units that the caller gives to the components of observations and actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from sb3_clanker.errors import OptionError
from sb3_clanker.options import ExportOptions
from sb3_clanker.policy_file.spaces import LeafSpace, ObservationSpace
from sb3_clanker.policy_file.tensors import TensorSpec


def label_observations(
    specs: Sequence[TensorSpec], space: ObservationSpace, options: ExportOptions
) -> tuple[TensorSpec, ...]:
    """The inputs of an observation with the caller's names and units.

    :raises OptionError: not one label for each component, or a key that the space does not have
    """
    leaves = space.leaves()
    names = _by_key("observation_names", options.observation_names, leaves)
    units = _by_key("observation_units", options.observation_units, leaves)
    return tuple(replace(spec, names=names.get(spec.key), units=units.get(spec.key)) for spec in specs)


def label_action(spec: TensorSpec, space: LeafSpace, options: ExportOptions) -> TensorSpec:
    """The output of an action with the caller's names and units; errors as for :func:`label_observations`."""
    return replace(
        spec,
        names=_checked("action_names", options.action_names, space),
        units=_checked("action_units", options.action_units, space),
    )


def _by_key(
    option: str, labels: Sequence[str] | Mapping[str, Sequence[str]] | None, leaves: Mapping[str | None, LeafSpace]
) -> dict[str | None, tuple[str, ...] | None]:
    if labels is None:
        return {}
    by_key: dict[Any, Sequence[str]] = dict(labels) if isinstance(labels, Mapping) else {None: labels}
    if unknown := [key for key in by_key if key not in leaves]:
        expected = "a sequence" if None in leaves else f"a mapping with keys among {sorted(map(str, leaves))}"
        raise OptionError(option, labels, f"{expected}, not one for {unknown[0]!r}")
    return {key: _checked(option, of_key, leaves[key]) for key, of_key in by_key.items()}


def _checked(option: str, labels: Sequence[str] | None, space: LeafSpace) -> tuple[str, ...] | None:
    if labels is None:
        return None
    if len(labels) != space.n_labels:
        raise OptionError(option, list(labels), f"{space.n_labels} labels, one for each component, not {len(labels)}")
    return tuple(labels)
