"""tract, an engine in Rust."""

from __future__ import annotations

from collections.abc import Iterator

from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.targets.target import Target, TargetName


class Tract(Target):
    """No policy that can be exported is known to fail there, whatever its kind, opset or further outputs."""

    name: TargetName = "tract"

    def notes(self, metadata: PolicyMetadata) -> Iterator[str]:
        names = ", ".join(spec.name for spec in metadata.outputs)
        yield f"it does not keep the names of outputs: take them by position ({names})"
