"""A finished run in the forms that other programs read: safetensors, ONNX, GGUF."""
