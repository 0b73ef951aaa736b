"""What every emulation of a Trusted Entity for a guest host needs.

guest_host   its memory as a slot map on the level below, donation, write protection
linked       a level that lives elsewhere: operations by message, memory by a port
locks        entity locks: the real lock scope, seen by one guest host
sizes        what a composition has to carry
quarantine   what a Trusted Entity would not give back
"""
