"""What a user can ask for: one verb, one module. Each is an ordinary function that takes a
`Project` and options and returns a report value; rendering is `aoti_build.report`'s work and exit
codes follow from the values and errors.
"""
