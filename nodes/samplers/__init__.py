"""Nodes that sample."""
