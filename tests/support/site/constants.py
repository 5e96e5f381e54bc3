"""Limits and names of the sites, and what the code of their steps begins with."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
BIN = Path(sys.executable).parent
MARK = "FAULT_TEST_MARK"
# of a wait for what must come: far more than it takes, so that a busy machine fails nothing
LIMIT_S = 120.0
GONE_LIMIT_S = 60.0
LEASE_S = 1.5
GRACE_S = 0.5

USER_CODE = """
import ctypes, os, pathlib, signal, subprocess, sys, time
from orchestrator import PipelineBuilder, context, pipeline, step

FOLDER = pathlib.Path(__file__).parent  # of this run alone

def note(name, text=""):
    (FOLDER / f"{name}.new").write_text(str(text))
    (FOLDER / f"{name}.new").rename(FOLDER / name)

def is_noted(name):
    return (FOLDER / name).exists()

def is_first(name):
    "Whether this is the first call with that name, in any process."
    try:
        (FOLDER / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True

def wait_for(name):
    while not is_noted(name):
        time.sleep(0.01)
"""
