"""Reads logs, fits curves, draws figures; needs neither ray nor torch."""
