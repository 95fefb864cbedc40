"""Release bundles: a directory with artifacts, and the evidence of how they were made and checked.

`layout` names the files, `record` has the types of `release.json`.
"""
