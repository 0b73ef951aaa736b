"""VSOCK without a hypervisor: addresses, the hybrid scheme's handshake, packets, credit, a fabric."""
