"""Guidance methods."""
