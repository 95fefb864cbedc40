"""From what models.yaml says of a model to an exported program and the digest of its graph."""
