"""Making and examining images: what ``obdsup image`` and ``obdsup zfile`` do; no supervisor."""
