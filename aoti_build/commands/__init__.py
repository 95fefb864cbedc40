"""The commands: a module for each, or a package where a command has several parts.

A command is an ordinary function. It takes a `Project` and options, and returns a report value.
`aoti_build.report` renders that value, and exit codes follow from values and errors. In a package,
`command` has the function, and `report` the value that it returns.
"""
