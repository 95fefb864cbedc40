"""The parser of models.yaml.

These modules import yaml and pydantic, which are slow to import. The other modules of
`aoti_build.models_file` therefore import this package only to parse a file.
"""
