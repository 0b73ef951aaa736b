"""The rows of the call table, by whose leaves they are and what they are about.

row        what several kinds have in common
system     TDH.SYS
td         TDs and VCPUs
memory     private memory, and pages of the machine
migration  service TDs and migration
guest      TDCALL
"""
