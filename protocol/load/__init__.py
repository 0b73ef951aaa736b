"""Load tests, the pure half: when requests come, what they are, and what their times say.

  requests    the plan of a block: who asks for what, when; the same for both paths (common random numbers)
  histogram   times by value, with a stated relative error; those of several processes are merged
  warmup      how much of the beginning is no steady state: a rule, not an eye
  paired      the order of blocks, the difference of two paths with an interval, and a verdict

Nothing here knows a clock: times come from whoever drives the load, in seconds of the world or virtual ones.
"""
