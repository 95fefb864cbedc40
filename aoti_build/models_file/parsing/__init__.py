"""The parser of models.yaml. These modules import yaml and pydantic, which take a tenth of a second
to load. The other modules of `aoti_build.models_file` therefore import them only to read a file."""
