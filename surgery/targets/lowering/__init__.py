"""What plain ONNX and its hosts want of a graph beyond what the hub says."""
