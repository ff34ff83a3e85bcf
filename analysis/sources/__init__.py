"""What a fit can be made from besides a study: measured points, and training curves that anybody logged."""
