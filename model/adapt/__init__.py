"""Adaptation: frozen features or fine-tuned weights of a pretrained encoder put to a task and measured."""
