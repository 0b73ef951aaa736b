"""Work that waits: operations recorded from the emulation contend for what only one may use at a time.

  engine    servers, jobs made of steps, and what waiting came to; on SimPy, in virtual nanoseconds
  demand    from counts and costs to the steps of one operation, and from the table's locks to servers

Here alone the pure half imports SimPy (extra `model`): it is a library of events and queues, without a clock
of the world. No modelled claim is made that the engine's own checks do not stand behind.
"""
