"""A secure host's software: what Linux, KVM and QEMU issue, in their order. Section 6 of the fact sheet.

Each row number in these files is one of section 6.

memory     frames for guests, the kernel's home space, a guest's table as its host reads it
guests     what a host keeps of a guest
lifecycle  CPU states, start, the two resets
pages      faults, import, unpack, swapping, pins
bulk       the same for runs of pages, in one step
run        a guest runs, its exits are answered
programs   what a guest does to its pages; `papers`: what it asks for its owner
boot, create, load, dump, destroy
perform    operations of a plan
system     the host

Left out: devices and their data, the guests' life before they enter secure mode (no Ultravisor call belongs
to it).
"""
