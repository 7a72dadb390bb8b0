"""Programs with the names and options of overlaybd's tools: thin, over ``obdsup.image``."""
