"""Virtual machine monitors: one process for each guest, told what to do over Unix sockets in its directory.

files      what lies in a guest's directory
guest      the emulated guest: a program of its own, which starts in milliseconds
emulated   how the service runs it
qemu       how the service runs QEMU
"""
