"""One page about a clustering of images, which any browser opens without a network."""

from ._write import write_report, write_report_of

__all__ = ["write_report", "write_report_of"]
