"""Rules of a fleet: who holds which machine, who may say what to whom, where a hosted guest is placed.

Pure: bytes and answers in, decisions out. What carries them, NATS, is in `actors.fleet`. Whatever comes from
there was written by somebody else: each reader here answers with a value or with RemoteProtocolError.
"""
