"""Foreign ONNX to the hub: unpack its inputs, find its warps, say the rest in the hub's words."""
