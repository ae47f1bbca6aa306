"""The one place that holds the version: packaging and the Go build read it from here."""

__version__ = "0.1.0"
