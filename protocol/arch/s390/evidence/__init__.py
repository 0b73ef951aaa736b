"""What an owner gets from the Ultravisor, or gives to it, after the image: dumps, evidence, secrets.

    dump         the formats of 8.2: the Ultravisor seals, the owner opens
    request      the form that attestation and add-secret requests share
    attestation  a request for evidence, and what the measurement covers
    secrets      an add-secret request, and the list of a guest's secrets

Both sides of each format stand together, as in `image`: the machine seals what an owner here opens, and the
other way round. Everything is a function of its arguments. Importing this package does not load the
cryptography library.
"""
