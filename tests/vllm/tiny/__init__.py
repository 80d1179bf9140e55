"""Tiny model folders that a real vLLM serves: everything but the weights, in plain Python."""
