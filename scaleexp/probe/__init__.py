"""`scaleexp probe`: what a step of a study costs on this hardware, in seconds and bytes, measured."""
