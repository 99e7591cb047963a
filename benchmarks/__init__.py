"""Fidelity and cost tables: ``python3 dev.py bench NAME [--json FILE]``."""
