"""The hub: ONNX with `rife::Warp`, which every donor comes to and every target starts from."""
