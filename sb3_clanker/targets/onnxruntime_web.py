"""ONNX Runtime Web, in a browser or in Node."""

from __future__ import annotations

from collections.abc import Iterator

from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.targets.target import Target, TargetName


class OnnxruntimeWeb(Target):
    """No policy that can be exported is known to fail there, whatever its kind, opset or further outputs."""

    name: TargetName = "onnxruntime-web"

    def notes(self, metadata: PolicyMetadata) -> Iterator[str]:
        if any(spec.dtype == "bool" for spec in metadata.inputs):
            yield "a tensor of type bool takes a Uint8Array of 0 and 1"
