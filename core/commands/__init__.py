"""What ``python -m core`` can do, a module for each group of commands. Each adds its own (``parser``)."""
