"""What becomes a hub model: PyTorch source and weights, foreign ONNX, ncnn model folders."""
