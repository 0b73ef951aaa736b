"""Load tests, the half with a clock: who asks, of what, and when it was answered.

target    what is asked: a deployment in this process, one path of a scenario
drive     who asks: open (when it is meant to) or closed (when the last is over); what came of it
run       blocks of both paths in turn, warm-up cut, the difference of pairs
virtual   the same requests in virtual time: recorded operations that queue for the modelled machine's locks
text      how it is told
"""
