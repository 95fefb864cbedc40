"""The project's tasks are aoti_build's own; a project that uses aoti_build has this same file."""

from aoti_build.tasks import ns

__all__ = ["ns"]
