"""One operation, followed through every level: who asked whom, and what each of them counted meanwhile.

span        a tree of spans: one for each message, with the counts of whoever handled it
fold        the same tree with repetitions said once, as a person reads it
timeline    where each span stands in modelled time
text        an indented picture for a terminal
mermaid     a sequence diagram
chrome      Chrome's trace format, which Perfetto opens
"""
