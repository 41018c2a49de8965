"""`aforo-admin doctor`: looks at every part of a running installation."""
