"""What `orchestrator doctor` looks at: a check is a function that yields findings, one file for
each subject.

A check of this machine takes the settings, a check of the server takes a installation. `checks.py`
lists them all.
"""
