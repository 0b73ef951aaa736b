"""What can be seen of a running nestbed from outside.

metrics     every family of metrics, defined once
collector   reads ledgers, books and statistics when somebody scrapes, and at no other time
exporter    hands them out over HTTP, with the two questions of a probe
"""
