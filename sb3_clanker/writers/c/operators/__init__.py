"""What operators of ONNX are in C."""
