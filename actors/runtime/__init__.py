"""What every role stands on: mailboxes, actors, supervision, links.

port        where a message may be sent, and how its answer comes back
mailbox     the bounded queue in front of an actor, and the wait for an answer
actor       a handler, run inline where it can be, parked where it must wait
supervisor  children as data: restarted within a budget, stopped in reverse order
link        many calls over one stream of frames
transport   what lies between two ports
"""
