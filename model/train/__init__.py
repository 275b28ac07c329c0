"""Training with two DeepSpeed engines: the generator (masked autoencoder) and the discriminator."""
