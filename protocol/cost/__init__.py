"""Modelled time: exact counts, priced.

  table    the costs: value, low, high, basis and source of each; what a user lays over them
  price    rules that say what each count costs, and the sum with its range and its basis

Times are those of the machine that is modelled, in virtual nanoseconds, never of this program. No sum is
shown without its range and without the share of it that rests on measurements, on arithmetic with them, and
on assumptions.
"""
