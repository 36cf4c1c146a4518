"""What can I type? Parsing and printing only; each module is a command, imported when it is called.

Knows no rule of a sweep: whatever a command does, another room does for Python, too.
"""
