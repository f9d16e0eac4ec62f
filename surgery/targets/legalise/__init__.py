"""What ncnn and its hosts want of a graph beyond what the hub says; no arithmetic changes."""
