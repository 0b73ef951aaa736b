"""What Linux and QEMU issue as a TDX host: section 6 of the fact sheet, as sequences.

module     the instruction SEAMCALL, and bringing the module up
shared     a TD's shared EPT, which its host writes with plain stores
vm         a TD as its VMM knows it, its run loop
system     the host: its memory, its KeyIDs, its guests
perform    operations of a plan
"""
