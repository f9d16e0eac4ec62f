"""What a hub model becomes: an ncnn model folder, plain ONNX; and what each runtime can load."""
