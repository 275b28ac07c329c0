"""Probing, decoding and encoding of video."""
