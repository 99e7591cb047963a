"""A small Stable Diffusion: text to images of 128x128 through a KL-VAE, and how it is trained."""
