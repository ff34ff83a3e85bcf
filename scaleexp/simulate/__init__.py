"""What a step takes on workers that nobody has tried yet, and what follows from it: time, cost, the frontier.

Numbers in, numbers out: nothing here imports torch or ray, and every part works on a fit made here, elsewhere or by
hand.
"""
