"""Nodes that show, score and set up."""
