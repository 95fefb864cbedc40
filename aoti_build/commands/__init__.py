"""The commands: one module for each.

A command is an ordinary function. It takes a `Project` and options, and returns a report value.
`aoti_build.report` renders that value, and exit codes follow from values and errors.
"""
