"""Reading `.pt2` packages without torch and without loading what they hold."""

from aoti_build.archive.package import Archive, Model, open_archive

__all__ = ["Archive", "Model", "open_archive"]
