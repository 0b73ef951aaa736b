"""The checks of single commands, in their order, for the machine and for every emulation of it alike.

Follows sections 3.2 to 3.4 of the fact sheet. A check looks at a `View` and changes nothing; the first one
that fails decides the status. What comes before every command (its number, its buffer) is in `front`.

  platform   commands about the platform, legacy and SNP
  legacy     commands about legacy guests
  snp        commands about SNP guests
  pages      commands about single pages under SNP
"""
