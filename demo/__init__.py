"""The bundled demo: a tiny diffusion model and a 2D mixture with known answers."""
