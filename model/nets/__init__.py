"""The networks: plain data in, tensors out. No optimiser, no logging, no distributed code."""
