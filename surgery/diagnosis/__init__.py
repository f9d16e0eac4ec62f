"""What is wrong with a model folder that anybody made, and what can be repaired."""
