"""AMD SEV, SEV-ES and SEV-SNP:

the secure processor, the RMP, and KVM's emulation of both for a guest host.
"""
