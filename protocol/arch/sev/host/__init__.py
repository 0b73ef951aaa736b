"""What Linux and QEMU issue as an AMD secure host: section 6 of the fact sheet, as sequences.

driver     the ccp driver: one command at a time, pages that change hands around it, the probe
asids      KVM's pool of ASIDs
tables     nested page tables, as KVM builds them in its own memory
guests     launch, attestation, page state change, destruction
vm         a guest as its VMM knows it, its run loop
kinds      what differs between SEV, SEV-ES and SNP; `attest`, `bulk`: parts of it
migrate    a guest moves to another machine
perform    operations of a plan
system     the host: its memory, its ASIDs, its guests
"""
