"""`danlu tour`: the whole life of a tiny model, step by step, each with its proof.

The tour is a conductor: every step calls the function behind a command that a user can call.
"""
