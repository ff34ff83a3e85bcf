"""Training frameworks whose loops `scaleexp.track` records: one callback each, imported where it is used alone."""
