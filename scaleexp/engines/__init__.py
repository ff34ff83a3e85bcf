"""Engines: how a pack of trials is stepped."""
