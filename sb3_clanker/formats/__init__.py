"""The formats beside ONNX, as a reader finds them: what their files say of themselves, and how they run."""
