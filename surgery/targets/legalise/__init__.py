"""What ncnn and rife-ncnn-vulkan want of a graph beyond what the hub says; no arithmetic changes."""
