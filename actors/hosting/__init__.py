"""The hosting service as a program: its journal on disk, its virtual machine monitors, its sockets.

store      the journal in SQLite
machine    guests in processes of their own, which outlive the service
vmm        what such a process is: an emulated guest, or QEMU
serve      the service on an address; requesters by the socket that they come by
"""
