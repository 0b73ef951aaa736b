"""What the secure processor computes: section 4.5 of the fact sheet. All of it is real.

keys          secrets of a chip, and memory encryption
digest        launch measurements, legacy and SNP
message       guest messages
report        the SNP attestation report
certificates  the chip's certificate chain, so that a report can be verified
identity      keys and certificates of the legacy platform
"""
