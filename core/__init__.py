"""UniMed Studio's core: one model that reads and draws medical images."""

__version__ = "0.1.0"
