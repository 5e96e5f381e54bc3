"""Quotes in shell commands: which references stand where the shell fills nothing in."""

from __future__ import annotations

import re

_MARK = re.compile(r"\$\$\{\{|\$\{\{.*?\}\}", re.DOTALL)
# What stands below `<<` has rules of its own, and these read their text as a command, where
# variables are filled in.
_UNCHECKED = re.compile(r"<<|\b(?:eval|trap)\b|\b(?:ba|da|k|z)?sh\b[^;|&\n]*\s-\w*c\b")
# inside double quotes: from here on, quotes may begin anew
_NESTING = re.compile(r"`|\$\(|\$\{(?!\w+\})")
_WORD_ENDS = " \t\n;&|()<>"


def single_quoted_references(command: str) -> list[str]:
    """Return the references, as written, that stand in single quotes of a shell command.

    In doubt none is given: the search ends where quotes nest, and a command with a heredoc, `eval`,
    `trap` or `sh -c` is not searched.
    """
    if "'" not in command or "${{" not in command or _UNCHECKED.search(command):
        return []
    found: list[str] = []
    quote = ""  # "'", '"', "#" for a comment, empty where the text is plain
    begins_word = True
    at = 0
    while at < len(command):
        char = command[at]
        if mark := _MARK.match(command, at):
            if quote == "'" and mark.group() != "$${{":
                found.append(mark.group())
            at, begins_word = mark.end(), False
            continue
        if quote == "#":
            quote = "" if char == "\n" else quote
        elif quote == "'":
            quote = "" if char == "'" else quote
        elif char == "\\":
            at += 0 if _MARK.match(command, at + 1) else 1
        elif quote == '"':
            if _NESTING.match(command, at):
                break
            quote = "" if char == '"' else quote
        elif command.startswith("$'", at):  # some shells know backslashes in these
            break
        elif char in "'\"" or (char == "#" and begins_word):
            quote = char
        begins_word = not quote and char in _WORD_ENDS
        at += 1
    return found
