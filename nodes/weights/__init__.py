"""Nodes that make weights."""
