"""Rival methods, for the method socket."""
